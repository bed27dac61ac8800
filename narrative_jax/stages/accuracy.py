"""How often rewards prefer, of two pictures of a scene, the one that the gold judge prefers."""

from itertools import combinations

import numpy as np

from narrative_jax import statistics
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.files import read_json, write_bytes
from narrative_jax.core.records import Candidate, Preference
from narrative_jax.data.datasets import open_records
from narrative_jax.data.screening import standardise
from narrative_jax.stages.base import Context
from narrative_jax.stages.common import read_scores

INPUTS = ("gold", "sources")


def check(config, entry) -> None:
    """Raise InputError unless there are score entries, all of the same pictures."""
    check_count("pairs", entry.pairs, minimum=1)
    if not entry.sources:
        raise InputError("sources none", "rewards are compared with gold", "name score entries")
    for name in entry.sources:
        if config[name].stage != "score":
            raise InputError(f"sources {name!r}", "it scores no pictures", "name score entries")
    if not entry.gold or config[entry.gold].stage not in ("score", "collect"):
        raise InputError(f"gold {entry.gold!r}", "it judges no pictures", "name a score entry, or one that collects")
    judged = {name: config[name].get("source", name) for name in (entry.gold, *entry.sources)}
    if len(set(judged.values())) != 1:
        given = ", ".join(f"{name} of {source}" for name, source in judged.items())
        raise InputError(f"sources {given}", "they are compared on the pictures of one entry", "name entries of one")


def run(context: Context) -> dict[str, float]:
    """Compare the first `pairs` pairs of pictures that `gold` tells apart; write and print a table.

    Gold is a score entry, for pairs of pictures of one scene, or a collect entry with people's preferences. A reward's
    verdict is by the mean of its standardised aspects; so is gold's overall, beside its verdict on each aspect. A tie
    of the reward is an error. Returns <entry>/<aspect>{,_low,_high}, shares with their Wilson intervals.
    """
    entry = context.entry
    source = context.path(context.config[entry.gold].get("source", entry.gold))
    candidates = list(open_records(source / "candidates", Candidate))
    ids = [candidate.id for candidate in candidates]
    verdicts = {aspect: pairs[:, : entry.pairs] for aspect, pairs in _verdicts(context, candidates, ids).items()}
    if not verdicts:
        raise InputError(f"gold {entry.gold!r}", "its preferences are all ties", "give some that are none")
    for aspect, pairs in verdicts.items():
        if not pairs.size:
            rule = "it tells no pair of pictures of one scene apart"
            raise InputError(f"{entry.gold} on {aspect}", rule, "give more pictures")
    numbers = {f"pairs/{aspect}": pairs.shape[1] for aspect, pairs in verdicts.items()}
    rows = {name: [] for name in entry.sources}
    for name in entry.sources:
        values = _scores(context, name, ids)[1].mean(1)
        for aspect, (better, worse) in verdicts.items():
            found = statistics.wilson(int((values[better] > values[worse]).sum()), len(better))
            rows[name].append(f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]")
            ends = {"": found.estimate, "_low": found.low, "_high": found.high}
            numbers |= {f"{name}/{aspect}{end}": value for end, value in ends.items()}
    table = _table(verdicts, rows)
    write_bytes(context.folder / "accuracy.md", table.encode())
    print(table, flush=True)
    return numbers


def _verdicts(context, candidates, ids):
    """Rows of the better and of the worse candidate of each pair, i[2, pairs], by aspect."""
    gold = context.entry.gold
    if context.config[gold].stage == "collect":
        return _preferred(context.path(gold), {id: row for row, id in enumerate(ids)})
    rows = {}
    for row, candidate in enumerate(candidates):
        rows.setdefault(candidate.scene_id, []).append(row)
    pairs = [pair for of_scene in rows.values() for pair in combinations(of_scene, 2)]
    first, second = np.array(pairs, int).reshape(-1, 2).T
    aspects, scores = _scores(context, gold, ids)
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


def _scores(context, name, ids):
    """Aspects, and the standardised scores f64[candidates, aspects] that a score entry gave these candidates."""
    saved = read_json(context.path(name) / "calibration.json")
    return saved["aspects"], standardise(read_scores(context, name, ids), saved["mean"], saved["std"])


def _table(verdicts, rows):
    lines = [["", *(aspect.replace("_", " ") for aspect in verdicts)], ["---"] * (1 + len(verdicts))]
    lines += [[name, *cells] for name, cells in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
