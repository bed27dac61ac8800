"""Draws the same scenes from the same noise with every arm, and has the gold judge compare them.

An arm is a generator in a state of training, or a way of using one: "baseline", the train entries named in `trained`,
"best_of_N" (of N candidates the one that the reward likes best) and "guidance" (the scale that is best on tune scenes).
All are compared with the baseline, and those pairs of arms that `compare` names with each other, over all scenes and
over kinds of scenes. The ceiling is what the oracle says of true pictures. A user's scenes have no gold: the named
reward stands in.
"""

from dataclasses import dataclass

import numpy as np

from narrative_jax.core import processes
from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.files import write_json
from narrative_jax.data.datasets import write_records
from narrative_jax.rewards.oracle import WORLD_VERSION, Presence, judge_true_pictures, kinds_of_scenes
from narrative_jax.runs.arms import Arms
from narrative_jax.runs.backgrounds import as_trained, check_own_shown
from narrative_jax.runs.collected import collect_entries
from narrative_jax.runs.directory import Context, was_trained
from narrative_jax.runs.generator import base_generator, check_generator, sampling_of
from narrative_jax.runs.rewards import RewardOptions, check_reward, reward_files, sections_of
from narrative_jax.runs.scenes import characters_of, check_scenes, collected_scenes, some_scenes
from narrative_jax.runs.trained import generator_entries, with_trained
from narrative_jax.statistics.comparison import Judged, between, compare

INPUTS = ("source", "trained", "reward_from", "ensemble")
sections, files = sections_of, reward_files
TUNE_SCENES = 64  # that the guidance scale is chosen on
COPYING, PRESENCE, SHOWN = CONTROLS = ("copying", "presence", "shown_as_trained")


@dataclass(frozen=True)
class Options(RewardOptions):
    """The arms, and the scenes that they draw `per_scene` pictures of.

    These are what the collect entry `source` took pictures of, or else the first `scenes` of a split or of a user's
    file (0: all). `compare` are pairs of arms. `controls` are more arms: "shown_as_trained" is the baseline, but shown
    the subjects as the first trained one is, e.g. without their backgrounds; of Storybook's scenes "copying", pictures
    that are true but for everybody standing as in the portrait, and "presence", of `best_of` the one that shows most of
    the characters.
    """

    source: str = ""
    split: str = "test"
    scenes: int = 0
    scene_seed: int = 0
    per_scene: int = 1
    trained: tuple[str, ...] = ()
    best_of: int = 0
    guidance_scales: tuple[float, ...] = ()
    compare: tuple[tuple[str, str], ...] = ()
    controls: tuple[str, ...] = ()


def check(context: Context, options: Options) -> None:
    """Raise InputError for scenes that the generator cannot draw, a reward that cannot judge them, and unknown arms."""
    check_generator(context)
    if options.source:
        check_name("source of scenes", options.source, collect_entries(context.config))
    else:  # an interval needs two
        check_scenes(context, options.split, options.scenes, options.scene_seed, minimum=2)
    check_reward(context, own=_are_own(context, options))
    check_count("per_scene", options.per_scene, minimum=1)
    check_count("best_of", options.best_of)
    for name in options.trained:
        check_name("train entry of the generator", name, generator_entries(context.config))
    if _are_own(context, options):
        check_own_shown(context, options.trained, options.source)
    for scale in options.guidance_scales:
        sampling_of(context, guidance_scale=scale)
    _check_controls(context, options)
    _check_compare(options)


def _check_controls(context, options):
    for name in options.controls:
        check_name("control", name, CONTROLS)
    if {*options.controls} - {SHOWN} and _are_own(context, options):
        rule = f"of people's own scenes there is {SHOWN!r} alone"
        raise InputError(f"controls {options.controls}", rule, "leave the others out")
    if SHOWN in options.controls and not options.trained:
        raise InputError(f"control {SHOWN!r}", "it is shown what a trained arm is", "name one in trained")
    if PRESENCE in options.controls and not options.best_of:
        raise InputError(f"control {PRESENCE!r} of none", "it chooses among best_of pictures", "set best_of, e.g. to 4")


def _check_compare(options):
    arms = ["baseline", *options.trained]
    arms += [f"best_of_{options.best_of}"] * bool(options.best_of) + ["guidance"] * bool(options.guidance_scales)
    arms += options.controls
    for pair in options.compare:
        for arm in pair:
            check_name("arm in compare", arm, arms)
        if pair[0] == pair[1] or options.compare.count(pair) > 1:
            raise InputError(f"compare {pair!r}", "an arm is compared with another one, once", "name two arms")


def run(context: Context, options: Options) -> dict[str, float]:
    """Leave each arm's pictures, and in results.json all arms' values by scene; returns the compared means.

    Each arm is shown the subjects as it was trained on them.

    Keys are gold/<aspect>/{baseline,aligned,ceiling,diff,diff_low,diff_high} and gold/gap_closed{,_low,_high} for the
    first trained entry, and gold/<arm>/... for the others, gold/<arm>_over_<arm>/{<aspect>,mean_of_aspects}/... for
    those compared with each other; behind each of these <group>/... for kinds of scenes, as `comparison` has them.
    reward/... for a user's scenes, without groups. Raises InputError, Stopped between two batches.
    """
    generator, base = base_generator(context)
    scenes = _scenes(context, options, generator.max_subjects, options.split, options.scenes)
    if context.writes:
        write_records(context.folder / "scenes", scenes)
    drawn = Arms(context, options.per_scene, gold=not _are_own(context, options))
    arms = {"baseline": drawn.arm("baseline", scenes, generator, base)}
    trained = [name for name in options.trained if was_trained(context.path(name))]
    shown = as_trained(context, trained, scenes)
    for name in trained:
        arms[name] = drawn.arm(name, scenes, *with_trained(context, name, generator, base), shown=shown[name])
    if SHOWN in options.controls and trained:
        arms[SHOWN] = drawn.arm(SHOWN, scenes, generator, base, shown=shown[trained[0]])
    chosen = {}
    if options.best_of:
        arms[f"best_of_{options.best_of}"] = drawn.best_of(options.best_of, scenes, generator, base)
    if options.guidance_scales:
        tune = _scenes(context, options, generator.max_subjects, "tune", TUNE_SCENES)
        chosen["guidance_scale"] = drawn.best_scale(options.guidance_scales, tune, generator, base)
        arms["guidance"] = drawn.arm("guidance", scenes, generator, base, scale=chosen["guidance_scale"])
    kind, groups = "reward", {}
    if drawn.gold:
        if PRESENCE in options.controls:
            arms[PRESENCE] = drawn.best_of(options.best_of, scenes, generator, base, Presence())
        if COPYING in options.controls:
            arms[COPYING] = Judged(_true(context, options, len(scenes), copied=True), np.ones(len(scenes), bool))
        arms["ceiling"] = Judged(_true(context, options, len(scenes)))
        kind, groups = "gold", kinds_of_scenes(scenes)
    results = {
        "scenes": [scene.id for scene in scenes],
        "aspects": {aspect: list(criteria) for aspect, criteria in drawn.columns.items()},
        "kind": kind,
        "world": WORLD_VERSION if drawn.gold else None,
        "arms": {name: np.round(arm.values, 6).tolist() for name, arm in arms.items()},
        "complete": {name: arm.complete.tolist() for name, arm in arms.items() if arm.complete is not None},
        "groups": {name: rows.tolist() for name, rows in groups.items()},
        **chosen,
    }
    if context.writes:
        write_json(context.folder / "results.json", results)
    numbers = compare(arms, drawn.columns, kind, groups)
    return numbers | between(arms, options.compare, drawn.columns, kind, groups) | chosen


def _true(context, options, count, copied=False):
    """The oracle's measures of true pictures f64[count, criteria], or of copies of the portraits in their places."""

    def judge(rows):
        most = characters_of(context.config)
        return judge_true_pictures(options.split, rows, options.scene_seed, most, copied).tolist()

    return np.float64(processes.in_shares("copies" if copied else "ceiling", count, judge))


def _are_own(context, options):
    """Whether the scenes are a user's, of which nobody knows the truth."""
    return bool(context.config.scenes or options.source)


def _scenes(context, options, most, split, count):
    if options.source:
        return collected_scenes(context, options.source, count, most, minimum=2)
    return some_scenes(context.config, split, count, options.scene_seed, most)[0]
