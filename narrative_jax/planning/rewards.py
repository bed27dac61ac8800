"""A train entry of a reward that writes critiques, and what scores with it, with shapes in place of weights."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from narrative_jax.algorithms.base import Algorithm
from narrative_jax.core.errors import InputError
from narrative_jax.core.options import names_of, parse
from narrative_jax.core.records import Scene, Subject
from narrative_jax.core.types import Params
from narrative_jax.rewards.base import PureReward
from narrative_jax.runs.directory import Context
from narrative_jax.runs.entries import options_of
from narrative_jax.runs.trained_rewards import as_trained, scored_at_once, trainable_reward
from narrative_jax.trainees.reward import RewardTrainee

REWARD = "reward"  # what such an entry trains
_BATCH = "annotations"


def reward_entries(config: Mapping[str, Any]) -> list[str]:
    """The entries that train a reward on critiques, in order."""
    trained = [name for name in config["stages"] if config[name].get("trains", "") == REWARD]
    return [name for name in trained if config[name]["algorithm"] == "critique"]


def planned_reward(
    context: Context, algorithm: Algorithm, kept: str, rows: int
) -> tuple[RewardTrainee, dict[str, Any]]:
    """What the context's entry trains, and the shapes of a batch of so many annotated pairs. Raises InputError."""
    trainee = abstract_reward_trainee(context, kept)
    return trainee, annotation_shapes(trainee.policy, algorithm, rows)


def scored_with(context: Context) -> tuple[PureReward, Params, int, Any, Any]:
    """What the context's entry trains, without its adapter, the shapes of its weights, how many pictures the first
    entry that scores with it takes at once, and the shapes of these and of their scenes.
    """
    reward, shapes = trainable_reward(context).abstract()
    rows = scored_at_once(context)
    return reward, shapes, rows, _pictures(reward, rows), _scenes(reward, rows)


def abstract_reward_trainee(context: Context, kept: str = "") -> RewardTrainee:
    """What `RewardTrainee.open` gives, with shapes in place of weights; `kept` stands for what its size says.

    Raises InputError for a reward that is planned from files.
    """
    options = options_of(context)
    others = ["stage", *names_of(type(options)), *RewardTrainee.sections(context)]
    own = parse(RewardTrainee.Options, context.entry, context.name, others)
    trainable = trainable_reward(context)
    if not hasattr(trainable, "abstract"):
        given, rule = f"reward {own.reward!r} of {context.name}", "a step is planned from shapes, and it gives none"
        raise InputError(given, rule, "plan with another reward")
    reward, shapes = trainable.abstract(kept)
    if not own.adapter:
        shapes = jax.eval_shape(lambda weights: as_trained(trainable, weights), dict(shapes))
        return RewardTrainee(context, own, trainable, reward, shapes, {})
    made = []  # structure, which is no array, leaves the abstract run by itself

    def build(weights):
        adapted, weights = reward.with_adapter(weights, context.name, **asdict(own.adapter))
        made.append(adapted)
        return weights

    weights = jax.eval_shape(build, dict(shapes))
    added = {name: leaf for name, leaf in weights.items() if name not in shapes}
    return RewardTrainee(context, own, trainable, made[0], added, {name: weights[name] for name in shapes})


def annotation_shapes(reward: PureReward, algorithm: Algorithm, rows: int) -> dict[str, Any]:
    """Shapes and types of a batch of so many annotated pairs, as `trainees.judged` makes it. Raises InputError."""
    if algorithm.batch != _BATCH:
        rule = f"the step that learns from {_BATCH} is planned"
        raise InputError(f"a step that learns from {algorithm.batch}", rule, "name another entry in --only")
    context = _scenes(reward, rows)
    critiques = _shaped(reward.prompts.texts([[""] * len(reward.aspects)]), rows)
    better = jax.ShapeDtypeStruct((rows, len(reward.aspects)), np.float32)
    sides = ("first", "second")
    batch = {"context": context, "better": better} | dict.fromkeys(sides, _pictures(reward, rows))
    batch |= {f"{side}_critiques": critiques for side in sides}
    if reward.prompts.room.aloud:
        batch |= {f"{side}_aloud": _shaped(reward.prompts.aloud([""]), rows) for side in sides}
    return batch


def _scenes(reward, rows):
    """Shapes of the context of so many scenes."""
    room = reward.prompts.room
    photo = np.zeros((1, room.side, room.side, 3), np.uint8)
    blank = Scene("", "", (Subject("", "", photo),) * room.max_subjects, "")
    return _shaped(reward.encode([blank]), rows)


def _pictures(reward, rows):
    """Shapes of so many pictures as they are fitted."""
    side = reward.prompts.room.side
    return jax.ShapeDtypeStruct((rows, side, side, 3), np.float32)


def _shaped(one, rows):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), one)
