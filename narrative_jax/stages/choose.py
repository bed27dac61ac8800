"""Chooses how far a training should have gone, by a reward that it did not follow.

A reward that a generator follows rises long after its pictures get worse. Each adapter that the training kept draws
the same tune scenes from the same noise; the one that another reward likes best is taken.
"""

import shutil
from dataclasses import dataclass

import numpy as np

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.files import write_json
from narrative_jax.data.datasets import write_records
from narrative_jax.runs import trained
from narrative_jax.runs.arms import Arms
from narrative_jax.runs.backgrounds import as_trained, check_own_shown
from narrative_jax.runs.candidates import draw_candidates, drawer_of, open_drawn
from narrative_jax.runs.directory import ADAPTER, Context
from narrative_jax.runs.generator import check_generator
from narrative_jax.runs.rewards import (
    RewardOptions,
    check_followed,
    check_reward,
    reward_files,
    sections_of,
    seen_by,
)
from narrative_jax.runs.scenes import check_scenes, some_scenes

INPUTS = ("source", "reward_from", "ensemble")
sections, files = sections_of, reward_files


@dataclass(frozen=True)
class Options(RewardOptions):
    """`source` is a train entry that kept adapters; its reward is another one than the entry's.

    They draw `per_scene` pictures of the first tune `scenes`. What was followed judges them as well, and with `gold`
    the oracle: that is told, and chooses nothing.
    """

    source: str = ""
    scenes: int = 128
    scene_seed: int = 0
    per_scene: int = 1
    gold: bool = False


def check(context: Context, options: Options) -> None:
    """Raise InputError for a training that keeps no adapters, a reward that it followed, and scenes none can judge."""
    check_name("train entry to choose from", options.source, trained.train_entries(context.config))
    if not context.config[options.source].get("keep_adapters", False):
        given, rule = f"{context.name}.source {options.source!r}", "it keeps no adapters to choose from"
        raise InputError(given, rule, f"set {options.source}.keep_adapters")
    _check_kept(context.config[options.source], options.source)
    check_generator(context)
    check_scenes(context, "tune", options.scenes, options.scene_seed, minimum=2)
    own = bool(context.config.scenes)
    check_reward(context, own)
    if own:
        check_own_shown(context, [options.source])
    check_count("per_scene", options.per_scene, minimum=1)
    if own and options.gold:
        raise InputError(f"{context.name}.gold", "the oracle knows Storybook's scenes only", "leave it out")
    train = context.of(options.source)
    if train.entry.get("reward", "") and not own:
        check_followed(context, options.source)
    if train.entry.get("reward", "") and seen_by(context) & seen_by(train):
        given = f"{context.name}.reward {options.reward!r}"
        rule = f"{options.source} followed it, and what is followed says nothing of when to stop"
        raise InputError(given, rule, "take another encoder's")


def run(context: Context, options: Options) -> dict[str, float]:
    """Leave the chosen adapter, and in results.json what was found of each by scene; step 0 is before training.

    Returns the chosen step and the reward's means before training, there and at the last one kept. Raises Stopped
    between two batches.
    """
    train = context.of(options.source)
    generator, begun = trained.beginning(train)
    scenes, _ = some_scenes(context.config, "tune", options.scenes, options.scene_seed, generator.max_subjects)
    shown = as_trained(context, [options.source], scenes)[options.source]
    judges = {"reward": Arms(context, options.per_scene, gold=False)}
    if train.entry.get("reward", ""):
        judges["followed"] = Arms(context, options.per_scene, gold=False, followed=options.source)
    if options.gold:
        judges["gold"] = Arms(context, options.per_scene, gold=True)
    paths, found, drawer = trained.kept_adapters(train.folder), {}, None
    for step, policy, params in trained.on_the_way(train, generator, begun):
        drawer = drawer or drawer_of(context, policy)
        name = f"step_{step}"
        draw_candidates(context, context.folder / name, drawer, params, shown, options.per_scene, name)
        images, ids = open_drawn(context.folder / name, options.per_scene)
        found[step] = {kind: judge.judged(images, scenes, ids).values for kind, judge in judges.items()}
    means = {step: float(values["reward"].mean()) for step, values in found.items()}
    chosen = max(paths, key=means.get)
    if context.writes:
        write_records(context.folder / "scenes", scenes)
        shutil.copyfile(paths[chosen], context.folder / ADAPTER)
        write_json(context.folder / "results.json", _results(scenes, judges, found, chosen))
    if means[chosen] <= means[0]:
        print(f"{context.name}: at no step kept is the reward higher than before training", flush=True)
    return {"step": chosen, "begun": means[0], "chosen": means[chosen], "last": means[max(paths)]}


def _check_kept(train, source):
    steps, every = train.total_steps, train.sample_every
    if steps < every:
        rule = f"an adapter is kept each {every} steps, and there are {steps}"
        raise InputError(f"{source}.sample_every {every}", rule, "keep them more often, or train longer")


def _results(scenes, judges, found, chosen):
    return {
        "scenes": [scene.id for scene in scenes],
        "columns": {kind: [*judge.columns] for kind, judge in judges.items()},
        "steps": {
            step: {kind: np.round(v, 6).tolist() for kind, v in values.items()} for step, values in found.items()
        },
        "chosen": chosen,
    }
