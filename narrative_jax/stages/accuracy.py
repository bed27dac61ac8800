"""How often rewards prefer, of two pictures of a scene, the one that the gold judge prefers."""

from itertools import combinations

import numpy as np

from narrative_jax import statistics
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.files import read_json, write_bytes
from narrative_jax.core.records import Candidate, Score
from narrative_jax.data.datasets import open_records
from narrative_jax.data.screening import standardise
from narrative_jax.stages.base import Context

INPUTS = ("gold", "sources")


def check(config, entry) -> None:
    """Raise InputError unless there are score entries, all of the same pictures."""
    check_count("pairs", entry.pairs, minimum=1)
    if not entry.sources:
        raise InputError("sources none", "rewards are compared with gold", "name score entries")
    for name in (entry.gold, *entry.sources):
        if config[name].stage != "score":
            raise InputError(f"sources {name!r}", "it scores no pictures", "name score entries")
    judged = {name: config[name].source for name in (entry.gold, *entry.sources)}
    if len(set(judged.values())) != 1:
        given = ", ".join(f"{name} of {source}" for name, source in judged.items())
        raise InputError(f"sources {given}", "they are compared on the pictures of one entry", "name entries of one")


def run(context: Context) -> dict[str, float]:
    """Compare the first `pairs` pairs of pictures of one scene that gold tells apart; write and print a table.

    A reward's verdict is by the mean of its standardised aspects; so is gold's overall, beside its verdict on each
    aspect. A tie of the reward is an error. Returns <entry>/<aspect>{,_low,_high}, shares with their Wilson intervals.
    """
    entry = context.entry
    ids, first, second = _pairs(context)
    aspects, gold = _scores(context, entry.gold, ids)
    verdicts = {"overall": gold.mean(1), **dict(zip(aspects, gold.T, strict=True))}
    rows, numbers = {name: [] for name in entry.sources}, {}
    for name in entry.sources:
        values = _scores(context, name, ids)[1].mean(1)
        for aspect, truth in verdicts.items():
            told = np.flatnonzero(truth[first] != truth[second])[: entry.pairs]
            if not len(told):
                rule = "it tells no pair of pictures of one scene apart"
                raise InputError(f"{entry.gold} on {aspect}", rule, "give more pictures")
            better = truth[first[told]] > truth[second[told]]
            difference = values[first[told]] - values[second[told]]
            right = np.where(better, difference > 0, difference < 0)
            found = statistics.wilson(int(right.sum()), len(told))
            rows[name].append(f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]")
            key = f"{name}/{aspect}"
            numbers |= {
                key: found.estimate,
                f"{key}_low": found.low,
                f"{key}_high": found.high,
                f"pairs/{aspect}": len(told),
            }
    table = _table(verdicts, rows)
    write_bytes(context.folder / "accuracy.md", table.encode())
    print(table, flush=True)
    return numbers


def _scores(context, name, ids):
    """Aspects, and the standardised scores f64[candidates, aspects] that a score entry gave these candidates."""
    saved = read_json(context.path(name) / "calibration.json")
    of = {record.candidate_id: record.scores for record in open_records(context.path(name) / "scores", Score)}
    missing = [each for each in ids if each not in of]
    if missing:
        rule = f"candidate {missing[0]!r} has no score"
        raise InputError(f"{context.path(name)}", rule, f"remove it and run {name} again")
    return saved["aspects"], standardise([of[each] for each in ids], saved["mean"], saved["std"])


def _pairs(context):
    """The candidates' ids, and their rows in all pairs of one scene, in the order of the scenes."""
    source = context.path(context.config[context.entry.gold].source)
    ids, rows = [], {}
    for row, candidate in enumerate(open_records(source / "candidates", Candidate)):
        ids.append(candidate.id)
        rows.setdefault(candidate.scene_id, []).append(row)
    pairs = [pair for of_scene in rows.values() for pair in combinations(of_scene, 2)]
    return ids, *np.array(pairs, int).reshape(-1, 2).T


def _table(verdicts, rows):
    lines = [["", *(aspect.replace("_", " ") for aspect in verdicts)], ["---"] * (1 + len(verdicts))]
    lines += [[name, *cells] for name, cells in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
