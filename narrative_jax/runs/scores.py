"""The scores of a score entry, and the statistics that put them on one scale."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import read_json
from narrative_jax.core.records import Score
from narrative_jax.data.datasets import open_records
from narrative_jax.data.screening import standardise
from narrative_jax.runs.directory import Context

CALIBRATION = "calibration.json"  # mean and deviation of each aspect over what an entry scored


def calibration_path(context: Context, name: str) -> Path:
    """The calibration by which a score entry's scores are read: that of the entry that it names, or its own."""
    return context.path(context.config[name].get("calibration", "") or name) / CALIBRATION


def check_score_entries(context: Context, names: Sequence[str], *more: str) -> None:
    """Raise InputError unless the `names` are score entries, all, and `more` entries too, of the same pictures."""
    for name in names:
        if getattr(context.config.get(name, None), "stage", "") != "score":
            raise InputError(f"sources {name!r}", "it scores no pictures", "name score entries")
    judged = {name: context.config[name].get("source", name) for name in (*more, *names)}
    if len(set(judged.values())) != 1:
        given = ", ".join(f"{name} of {source}" for name, source in judged.items()) or "none"
        raise InputError(f"sources {given}", "they are compared on the pictures of one entry", "name entries of one")


def read_scores(context: Context, name: str, ids: Sequence[str]) -> np.ndarray:
    """What a score entry gave these candidates, f64[ids, aspects]. Raises InputError for one that it gave nothing."""
    columns = open_records(context.path(name) / "scores", Score).columns("candidate_id", "scores")
    of = dict(zip(columns["candidate_id"], columns["scores"], strict=True))
    missing = [each for each in ids if each not in of]
    if missing:
        rule = f"candidate {missing[0]!r} has no score"
        raise InputError(f"{context.path(name)}", rule, f"do it again with --redo={name}")
    return np.array([of[each] for each in ids])


def aspects_of(context: Context, name: str) -> list[str]:
    """The columns of a score entry's scores."""
    return read_json(context.path(name) / CALIBRATION)["aspects"]


def standard_scores(context: Context, name: str, ids: Sequence[str]) -> np.ndarray:
    """`read_scores` standardised by `calibration_path`, f64[ids, aspects]; by their own without one."""
    raw, path = read_scores(context, name, ids), calibration_path(context, name)
    if not path.is_file():
        return standardise(raw, raw.mean(0), raw.std(0))
    saved = read_json(path)
    return standardise(raw, saved["mean"], saved["std"])
