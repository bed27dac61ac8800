"""How often rewards prefer, of two pictures of a scene, the one that the gold judge prefers."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import expit

from narrative_jax import statistics
from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.files import write_bytes
from narrative_jax.core.markdown import table
from narrative_jax.core.records import Preference
from narrative_jax.data.datasets import open_records
from narrative_jax.runs.candidates import open_candidates, pictures_entry
from narrative_jax.runs.directory import Context
from narrative_jax.runs.rewards import TRAINED
from narrative_jax.runs.scores import aspects_of, check_score_entries, read_scores, standard_scores

INPUTS = ("gold", "sources", "given")
ALONE = True
GIVEN = "given"  # the part of the pairs whose pictures show what `given` scores
_PREFER = ("collect", "annotate")  # stages that leave preferences


@dataclass(frozen=True)
class Options:
    """`gold`, an entry that scores, collects or annotates, judges the `sources`, score entries, on so many `pairs` of
    pictures.

    `leader`, one of the sources, is compared with each of the others on the same pairs. `given`, a score entry of one
    aspect whose highest score is 1, e.g. of the reward "presence", says of which pairs the shares are told once more:
    those of whose pictures both have that score. `ceiling`, another of the sources, e.g. one of the oracle, is what
    the leader is measured by.
    """

    gold: str
    sources: tuple[str, ...]
    pairs: int
    leader: str = ""
    given: str = ""
    ceiling: str = ""


def check(context: Context, options: Options) -> None:
    """Raise InputError unless there are score entries, all of the same pictures."""
    check_count("pairs", options.pairs, minimum=1)
    if not options.sources:
        raise InputError("sources none", "rewards are compared with gold", "name score entries")
    if not options.gold or context.config[options.gold].stage not in ("score", *_PREFER):
        rule = "it judges no pictures"
        raise InputError(f"gold {options.gold!r}", rule, "name an entry that scores, collects or annotates")
    if options.leader:
        check_name("leader", options.leader, options.sources)
    if options.ceiling:
        check_name("ceiling", options.ceiling, options.sources)
        if options.leader in ("", options.ceiling):
            rule = f"the leader, {options.leader or 'none'}, is measured by another"
            raise InputError(f"ceiling {options.ceiling!r}", rule, "name a leader and another source")
    given = (options.given,) if options.given else ()
    check_score_entries(context, (*options.sources, *given), options.gold)


def run(context: Context, options: Options) -> dict[str, float]:
    """Compare the first `pairs` pairs of pictures that `gold` tells apart; write and print a table.

    Gold is a score entry, for pairs of pictures of one scene, or an entry with preferences, people's or
    annotators'. A reward's verdict is by the aspect that is asked, or where it has none of that name by the mean of
    its standardised aspects; so is gold's overall, beside its verdict on each aspect. A tie of the reward is half
    right, as a guess is; one of gold is left out. Returns pairs/<aspect> and <entry>/<aspect>{,_low,_high}, shares
    with score intervals; <entry>/<aspect>_lead{,_low,_high}, how much more often the leader is right, resampling
    scenes; the same of given pairs in given/; with a ceiling both as nibench/<aspect>/{accuracy,ceiling}. Of all
    pairs, for those that learned preferences, whose differences are log odds: <entry>/<aspect>_sure, how sure they
    are on average, _miscalibration, and how much of that chance alone would give, _by_chance.
    """
    pictures = open_candidates(context, pictures_entry(context.config, options.gold)).columns("id", "scene_id")
    ids, scene_ids = pictures["id"], np.array(pictures["scene_id"])
    verdicts = _verdicts(context, options.gold, ids, pictures["scene_id"])
    verdicts = {aspect: pairs[:, : options.pairs] for aspect, pairs in verdicts.items()}
    if not verdicts:
        raise InputError(f"gold {options.gold!r}", "its preferences are all ties", "give some that are none")
    for aspect, pairs in verdicts.items():
        if not pairs.size:
            rule = "it tells no pair of pictures of one scene apart"
            raise InputError(f"{options.gold} on {aspect}", rule, "give more pictures")
    right = {name: _right(context, name, ids, verdicts) for name in options.sources}
    parts = {"": {aspect: np.ones(pairs.shape[1], bool) for aspect, pairs in verdicts.items()}}
    if options.given:
        shown = _shown(context, options.given, ids)
        parts[f"{GIVEN}/"] = {aspect: shown[pairs].all(0) for aspect, pairs in verdicts.items()}
    scenes = {aspect: scene_ids[better] for aspect, (better, _) in verdicts.items()}
    numbers, tables = {}, []
    for part, taken in parts.items():
        of_part = _shares(right, taken, scenes, options.leader)
        numbers |= {f"{part}{key}": value for key, value in of_part.items()}
        tables.append(_table(of_part, verdicts, options))
    if options.ceiling:
        ends = {"accuracy": options.leader, "ceiling": options.ceiling}
        numbers |= {f"nibench/{each}/{end}": numbers[f"{of}/{each}"] for each in verdicts for end, of in ends.items()}
    learned = [name for name in options.sources if _odds(context, name)]
    # One whose scores are of none of gold's aspects has nothing to be sure of.
    sure = {name: found for name in learned if (found := _sure(context, name, ids, verdicts, right[name]))}
    numbers |= {f"{name}/{key}": value for name, of_name in sure.items() for key, value in of_name.items()}
    shown = f"\n\nGiven {options.given}:\n\n".join(tables)
    if sure:
        about = "How sure they are, and how far that is from being right (in brackets what chance alone gives):"
        shown += f"\n\n{about}\n\n{_sure_table(sure, verdicts)}"
    write_bytes(context.folder / "accuracy.md", f"{shown}\n".encode())
    print(shown, flush=True)
    return numbers


def _shown(context, given, ids):
    """Which pictures have the best score of an entry whose scores are shares, bool[pictures]."""
    scores = read_scores(context, given, ids)
    if scores.shape[1] > 1 or not 0 <= scores.min() <= scores.max() <= 1:
        rule = "it gives one share of 0 to 1, and pictures with 1 are taken"
        raise InputError(f"given {given!r}", rule, "name an entry of the reward 'presence'")
    return scores[:, 0] == 1


def _right(context, name, ids, verdicts):
    """Whether a reward prefers the better one of each pair, 1, the other, -1, or neither, 0: [pairs] by aspect."""
    scores, aspects = standard_scores(context, name, ids), aspects_of(context, name)
    right = {}
    for aspect, (better, worse) in verdicts.items():
        values = scores[:, aspects.index(aspect)] if aspect in aspects else scores.mean(1)
        right[aspect] = np.sign(values[better] - values[worse]).astype(int)
    return right


def _odds(context, name):
    """Whether a score entry's differences are log odds: its reward learned preferences, and nothing controls it."""
    entry = context.config[name]
    if entry.get("reward", "") != TRAINED or entry.get("control", ""):
        return False
    training = context.config[entry.reward_from]
    learned = context.tables.algorithms[training.algorithm].batch
    # Of annotations critiques can be learned alone.
    return learned == "preferences" or (learned == "annotations" and training.get("hyper", {}).get("gamma", 1.0) > 0)


def _sure(context, name, ids, verdicts, right):
    """<aspect>_sure and <aspect>_miscalibration of a trained reward, of the aspects that it scores."""
    scores, aspects, found = read_scores(context, name, ids), aspects_of(context, name), {}
    for aspect, (better, worse) in verdicts.items():
        if aspect in aspects:
            values = scores[:, aspects.index(aspect)]
            confidence = expit(np.abs(values[better] - values[worse]))
            found[f"{aspect}_sure"] = float(confidence.mean())
            found[f"{aspect}_by_chance"] = statistics.calibration_by_chance(confidence)
            found[f"{aspect}_miscalibration"] = statistics.calibration_error(confidence, (1 + right[aspect]) / 2)
    return found


def _sure_table(sure, aspects):
    def cell(of_name, aspect):
        if f"{aspect}_sure" not in of_name:
            return "–"
        sure, off, chance = (of_name[f"{aspect}_{key}"] for key in ("sure", "miscalibration", "by_chance"))
        return f"{sure:.3f}, {off:.3f} ({chance:.3f})"

    rows = [[name, *(cell(of_name, aspect) for aspect in aspects)] for name, of_name in sure.items()]
    return table(["", *(aspect.replace("_", " ") for aspect in aspects)], rows)


def _shares(right, taken, scenes, leader):
    """How often each is right, and how much more often the leader, of the pairs that are taken: if any, by aspect."""
    numbers = {f"pairs/{aspect}": int(rows.sum()) for aspect, rows in taken.items()}
    for name, of_name in right.items():
        for aspect, rows in taken.items():
            mine = of_name[aspect][rows]
            if not mine.size:
                continue
            found = {"": statistics.win_rate(mine)}
            which = scenes[aspect][rows]
            if leader and leader != name and len(set(which)) > 1:
                shares = [(1 + each) / 2 for each in (right[leader][aspect][rows], mine)]
                found["_lead"] = statistics.paired_share(*shares, which)
            for key, interval in found.items():
                ends = {"": interval.estimate, "_low": interval.low, "_high": interval.high}
                numbers |= {f"{name}/{aspect}{key}{end}": value for end, value in ends.items()}
    return numbers


def _table(numbers, aspects, options):
    """A row for each source; behind its shares how far the leader leads."""
    header = ["", *(aspect.replace("_", " ") for aspect in aspects)]
    header += [f"lead of {options.leader}: {each}" for each in header[1:] if options.leader]

    def cell(key, form):
        if key not in numbers:
            return "–"
        return f"{numbers[key]:{form}} [{numbers[f'{key}_low']:{form}}, {numbers[f'{key}_high']:{form}}]"

    rows = []
    for name in options.sources:
        leads = [cell(f"{name}/{aspect}_lead", "+.3f") for aspect in aspects if options.leader]
        rows.append([name, *(cell(f"{name}/{aspect}", ".3f") for aspect in aspects), *leads])
    return table(header, rows)


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
