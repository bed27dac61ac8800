"""Turns scored candidates into preferences: which pairs are kept, and how many each rule removed."""

from itertools import pairwise

import numpy as np

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.files import read_json
from narrative_jax.core.records import Candidate, Preference, Score
from narrative_jax.data.datasets import open_records, write_records
from narrative_jax.data.screening import RULES, Pairs, select_pairs, shuffle_labels, standardise
from narrative_jax.stages.base import Context
from narrative_jax.stages.rewards import make_reward

INPUTS = ("source",)
ON_NO_PAIRS = ("stop", "skip")


def check(config, entry) -> None:
    """Raise InputError for options that `run` cannot follow."""
    check_name("screening rule", entry.rule, RULES)
    check_name("on_no_pairs", config.on_no_pairs, ON_NO_PAIRS)
    check_count("max_pairs_per_prompt", entry.max_pairs_per_prompt)
    known = make_reward(config, config[entry.source]).aspects
    for aspect in entry.get("aspects", ()):
        check_name("aspect", aspect, known)
    aspects = entry.get("aspects", ()) or known
    if entry.rejection and len(entry.thresholds) != len(aspects):
        raise InputError(
            f"thresholds {tuple(entry.thresholds)}", f"aspects are {', '.join(aspects)}", "give one for each"
        )


def run(context: Context) -> dict[str, float]:
    """Write the preferences among what the score entry `source` has scored, and return what each rule left.

    `aspects` are those that count, () for all. Scores are standardised by the reward's calibration where it has one,
    else by their own statistics. Where no pair is left, raises InputError, or, with on_no_pairs="skip", writes none and
    returns pairs = 0.
    """
    entry, source = context.entry, context.path(context.entry.source)
    candidates = open_records(context.path(context.config[entry.source].source) / "candidates", Candidate)
    scene_of = {candidate.id: candidate.scene_id for candidate in candidates}
    records = list(open_records(source / "scores", Score))
    ids = [score.candidate_id for score in records]
    strange = [each for each in ids if each not in scene_of]
    if strange:
        raise InputError(f"{source}", f"candidate {strange[0]!r} is unknown", f"remove it and run {entry.source} again")
    prompts = [scene_of[each] for each in ids]
    raw = np.array([score.scores for score in records])
    columns, judged = _columns(context)
    pairs = select_pairs(
        standardise(raw, *_calibration(source, raw))[:, columns],
        prompts,
        rule=entry.rule,
        thresholds=entry.thresholds if entry.rejection else None,
        max_pairs_per_prompt=entry.max_pairs_per_prompt,
    )
    if entry.shuffle_labels:
        pairs = shuffle_labels(pairs, context.config.seed)
    if len(pairs):
        write_records(context.folder / "preferences", _preferences(pairs, ids, judged))
    elif context.config.on_no_pairs == "stop":
        raise InputError(f"no pair left: {_account(pairs)}", "training needs one", 'ask less, or on_no_pairs="skip"')
    return _summary(pairs, len(ids), len(set(prompts)))


def _calibration(source, raw):
    """Mean and deviation of each aspect [aspects]."""
    path = source / "calibration.json"
    if not path.is_file():
        return raw.mean(0), raw.std(0)
    saved = read_json(path)
    return saved["mean"], saved["std"]


def _columns(context):
    """Which of the reward's aspects count, and what a preference on them is called."""
    aspects = context.entry.get("aspects", ())
    known = make_reward(context.config, context.config[context.entry.source]).aspects
    return [known.index(aspect) for aspect in aspects or known], aspects[0] if len(aspects) == 1 else "overall"


def _preferences(pairs, ids, aspect):
    for chosen, rejected, gap in zip(pairs.chosen, pairs.rejected, pairs.gap, strict=True):
        yield Preference(ids[chosen], ids[rejected], aspect, tie=False, gap=float(gap))


def _steps(pairs):
    """Each rule, how many pairs came to it and how many it left."""
    counts = list(pairs.left.items())
    for (_, before), (rule, after) in pairwise(counts):
        yield rule, before, after


def _account(pairs: Pairs) -> str:
    removed = [f"{rule} removed {before - after} of {before}" for rule, before, after in _steps(pairs)]
    return ", ".join([f"{pairs.left['all']} pairs", *removed])


def _summary(pairs, num_candidates, num_prompts):
    numbers = {"candidates": num_candidates, "prompts": num_prompts, "pairs": len(pairs)}
    numbers["pairs_per_prompt"] = len(pairs) / num_prompts
    numbers["considered"] = pairs.left["all"]
    for rule, before, after in _steps(pairs):
        numbers[f"removed/{rule}"] = before - after
        numbers[f"accept/{rule}"] = after / before if before else 0.0
    return numbers
