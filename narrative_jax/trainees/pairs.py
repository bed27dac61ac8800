"""Pairs of pictures that a reward learns from: preferences, or annotations."""

from collections.abc import Callable

import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float
from narrative_jax.rewards.base import PureReward
from narrative_jax.runs.annotations import open_annotated
from narrative_jax.runs.directory import Context
from narrative_jax.runs.preferences import label, open_preferences
from narrative_jax.trainees.base import Batches

Fitted = Callable[[np.ndarray], np.ndarray]  # a picture as the reward is trained on it, all of one size


def preferred_pairs(context: Context, reward: PureReward, fitted: Fitted) -> Batches:
    """Both pictures of each preference of the entry's source, and the context of its scene.

    Raises InputError for preferences on several aspects.
    """
    found, records = open_preferences(context, context.entry.source)
    aspects = sorted({preference.aspect for preference in found})
    if len(aspects) > 1:
        rule = "one reward learns what is preferred on one of them"
        raise InputError(f"preferences on {', '.join(aspects)}", rule, "give those of one aspect")

    def make_batch(indices):
        asked = [found[i] for i in indices]
        chosen, rejected = (
            [records.candidate(id) for id in ids]
            for ids in ([each.chosen_id for each in asked], [each.rejected_id for each in asked])
        )
        batch = {
            "chosen": _pictures(chosen, fitted),
            "rejected": _pictures(rejected, fitted),
            "context": reward.encode([records.scene(candidate.scene_id) for candidate in chosen]),
            "tie": np.array([preference.tie for preference in asked]),
        }
        return [label(preference) for preference in asked], batch

    return Batches(len(found), make_batch)


def annotated_pairs(context: Context, reward: PureReward, fitted: Fitted) -> Batches:
    """Both pictures of each pair that the entry's source annotated, their critiques, and which is better.

    Where `better` f32[b, aspects] is 1 the first one is, where it is -1 the second; 0 is a tie, NaN where nobody said.
    Raises InputError.
    """
    pairs = open_annotated(context, context.entry.source, reward.aspects)

    def make_batch(indices):
        ids = [pairs.ids[i] for i in indices]
        batch = {"better": pairs.better[indices]}
        for side, of in zip(("first", "second"), zip(*ids, strict=True), strict=True):
            candidates = [pairs.pictures.candidate(id) for id in of]
            batch[side] = _pictures(candidates, fitted)
            batch[f"{side}_critiques"] = reward.prompts.texts([pairs.said(id, reward.aspects) for id in of])
        batch["context"] = reward.encode([pairs.pictures.scene(each.scene_id) for each in candidates])
        return [" and ".join(each) for each in ids], batch

    return Batches(len(pairs.ids), make_batch)


def _pictures(candidates, fitted):
    return to_float(np.stack([fitted(candidate.image) for candidate in candidates]))
