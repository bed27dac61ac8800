"""How often rewards prefer, of two pictures of a scene, the one that the gold judge prefers."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from narrative_jax import statistics
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.files import write_bytes
from narrative_jax.core.markdown import table
from narrative_jax.core.records import Preference
from narrative_jax.data.datasets import open_records
from narrative_jax.runs.candidates import open_candidates, pictures_entry
from narrative_jax.runs.directory import Context
from narrative_jax.runs.scores import aspects_of, check_score_entries, standard_scores

INPUTS = ("gold", "sources")
ALONE = True
_PREFER = ("collect", "annotate")  # stages that leave preferences


@dataclass(frozen=True)
class Options:
    """`gold`, an entry that scores, collects or annotates, judges the `sources`, score entries, on so many `pairs` of
    pictures.
    """

    gold: str
    sources: tuple[str, ...]
    pairs: int


def check(context: Context, options: Options) -> None:
    """Raise InputError unless there are score entries, all of the same pictures."""
    check_count("pairs", options.pairs, minimum=1)
    if not options.sources:
        raise InputError("sources none", "rewards are compared with gold", "name score entries")
    if not options.gold or context.config[options.gold].stage not in ("score", *_PREFER):
        rule = "it judges no pictures"
        raise InputError(f"gold {options.gold!r}", rule, "name an entry that scores, collects or annotates")
    check_score_entries(context, options.sources, options.gold)


def run(context: Context, options: Options) -> dict[str, float]:
    """Compare the first `pairs` pairs of pictures that `gold` tells apart; write and print a table.

    Gold is a score entry, for pairs of pictures of one scene, or an entry with preferences, people's or annotators'. A
    reward's verdict is by the aspect that is asked, or where it has none of that name by the mean of its standardised
    aspects; so is gold's overall, beside its verdict on each aspect. A tie of the reward is an error, one of gold is
    left out. Returns <entry>/<aspect>{,_low,_high}, shares with their Wilson intervals.
    """
    pictures = open_candidates(context, pictures_entry(context, options.gold)).columns("id", "scene_id")
    ids = pictures["id"]
    verdicts = _verdicts(context, options.gold, ids, pictures["scene_id"])
    verdicts = {aspect: pairs[:, : options.pairs] for aspect, pairs in verdicts.items()}
    if not verdicts:
        raise InputError(f"gold {options.gold!r}", "its preferences are all ties", "give some that are none")
    for aspect, pairs in verdicts.items():
        if not pairs.size:
            rule = "it tells no pair of pictures of one scene apart"
            raise InputError(f"{options.gold} on {aspect}", rule, "give more pictures")
    numbers = {f"pairs/{aspect}": pairs.shape[1] for aspect, pairs in verdicts.items()}
    rows = {name: [] for name in options.sources}
    for name in options.sources:
        scores, aspects = standard_scores(context, name, ids), aspects_of(context, name)
        for aspect, (better, worse) in verdicts.items():
            values = scores[:, aspects.index(aspect)] if aspect in aspects else scores.mean(1)
            found = statistics.wilson(int((values[better] > values[worse]).sum()), len(better))
            rows[name].append(f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]")
            ends = {"": found.estimate, "_low": found.low, "_high": found.high}
            numbers |= {f"{name}/{aspect}{end}": value for end, value in ends.items()}
    header = ["", *(aspect.replace("_", " ") for aspect in verdicts)]
    shown = table(header, [[name, *cells] for name, cells in rows.items()])
    write_bytes(context.folder / "accuracy.md", f"{shown}\n".encode())
    print(shown, flush=True)
    return numbers


def _verdicts(context, gold, ids, scene_ids):
    """Rows of the better and of the worse candidate of each pair, i[2, pairs], by aspect."""
    if context.config[gold].stage in _PREFER:
        return _preferred(context.path(gold), {id: row for row, id in enumerate(ids)})
    rows = {}
    for row, scene_id in enumerate(scene_ids):
        rows.setdefault(scene_id, []).append(row)
    pairs = [pair for of_scene in rows.values() for pair in combinations(of_scene, 2)]
    first, second = np.array(pairs, int).reshape(-1, 2).T
    aspects, scores = aspects_of(context, gold), standard_scores(context, gold, ids)
    verdicts = {}
    for aspect, truth in {"overall": scores.mean(1), **dict(zip(aspects, scores.T, strict=True))}.items():
        told, better = truth[first] != truth[second], truth[first] > truth[second]
        verdicts[aspect] = np.where(better, (first, second), (second, first))[:, told]
    return verdicts


def _preferred(folder, row_of):
    verdicts = {}
    for preference in open_records(folder / "preferences", Preference):
        if not preference.tie:
            rows = row_of[preference.chosen_id], row_of[preference.rejected_id]
            verdicts.setdefault(preference.aspect, []).append(rows)
    return {aspect: np.array(pairs).T for aspect, pairs in verdicts.items()}
