"""Turns scored candidates into preferences: which pairs are kept, and how many each rule removed."""

from dataclasses import dataclass
from itertools import pairwise

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.records import Preference, Score
from narrative_jax.data.datasets import open_records, write_records
from narrative_jax.data.screening import RULES, Pairs, draw_pairs, select_pairs, shuffle_labels
from narrative_jax.runs.candidates import open_candidates, pictures_entry
from narrative_jax.runs.directory import Context, read_manifest
from narrative_jax.runs.rewards import describe_reward
from narrative_jax.runs.scores import check_score_entries, standard_scores

INPUTS = ("source", "as_many_as")
ALONE = True
ON_NO_PAIRS = ("stop", "skip")


@dataclass(frozen=True)
class Options:
    """How pairs of what `source` has scored are selected; see `data.screening.select_pairs`.

    `aspects` are those that count, () for all. With `rejection` the preferred one lies above `thresholds`, one for each
    aspect.

    Controls: `as_many_as`, another screen entry, leaves as many pairs as that has, by lot; `shuffle_labels` all but the
    preference. `seed` is that of both.
    """

    source: str
    rule: str = "dominance"
    rejection: bool = False
    thresholds: tuple[float, ...] = ()
    aspects: tuple[str, ...] = ()
    max_pairs_per_prompt: int = 0
    as_many_as: str = ""
    shuffle_labels: bool = False
    seed: int = 0


def check(context: Context, options: Options) -> None:
    """Raise InputError for options that `run` cannot follow."""
    check_name("rule", options.rule, RULES)
    check_name("on_no_pairs", context.config.on_no_pairs, ON_NO_PAIRS)
    check_count("max_pairs_per_prompt", options.max_pairs_per_prompt)
    check_count("seed", options.seed)
    if options.as_many_as:
        screens = [name for name, section in context.config.items() if getattr(section, "stage", None) == "screen"]
        check_name("screen entry", options.as_many_as, [name for name in screens if name != context.name])
    check_score_entries(context, [options.source])
    aspects = _aspects(context, options)
    if options.rejection and len(options.thresholds) != len(aspects):
        given = f"thresholds {options.thresholds}"
        raise InputError(given, f"aspects are {', '.join(aspects)}", "give one for each")


def run(context: Context, options: Options) -> dict[str, float]:
    """Write the preferences among what the score entry `source` has scored, and return what each rule left.

    Scores are standardised by the calibration of `source`, which says of which set that is. Where no pair is left,
    raises InputError, or, with on_no_pairs="skip", writes none and returns pairs = 0.
    """
    source = context.path(options.source)
    pictures = open_candidates(context, pictures_entry(context.config, options.source)).columns("id", "scene_id")
    scene_of = dict(zip(pictures["id"], pictures["scene_id"], strict=True))
    ids = open_records(source / "scores", Score).columns("candidate_id")["candidate_id"]
    strange = [each for each in ids if each not in scene_of]
    if strange:
        remedy = f"do it again with --redo={options.source}"
        raise InputError(f"{source}", f"candidate {strange[0]!r} is unknown", remedy)
    prompts = [scene_of[each] for each in ids]
    known, aspects = describe_reward(context.of(options.source)).aspects, _aspects(context, options)
    pairs = select_pairs(
        standard_scores(context, options.source, ids)[:, [known.index(aspect) for aspect in aspects]],
        prompts,
        rule=options.rule,
        thresholds=options.thresholds if options.rejection else None,
        max_pairs_per_prompt=options.max_pairs_per_prompt,
    )
    seed = context.config.seed + options.seed
    if options.as_many_as:
        pairs = draw_pairs(pairs, read_manifest(context.path(options.as_many_as))["summary"]["pairs"], seed)
    if options.shuffle_labels:
        pairs = shuffle_labels(pairs, seed)
    if len(pairs):
        judged = options.aspects[0] if len(options.aspects) == 1 else "overall"
        write_records(context.folder / "preferences", _preferences(pairs, ids, judged))
    elif context.config.on_no_pairs == "stop":
        raise InputError(f"no pair left: {_account(pairs)}", "training needs one", 'ask less, or on_no_pairs="skip"')
    return _summary(pairs, len(ids), len(set(prompts)))


def _aspects(context, options):
    """Those that count. Raises InputError for one that the reward does not have."""
    known = describe_reward(context.of(options.source)).aspects
    for aspect in options.aspects:
        check_name("aspect", aspect, known)
    return options.aspects or known


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
