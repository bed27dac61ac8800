"""What pictures are beside true ones: how far apart they are, and how much of a subject image was pasted."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float
from narrative_jax.core.records import Scene
from narrative_jax.rewards.features import Features
from narrative_jax.rewards.identity import Identity
from narrative_jax.statistics.distances import Moments, frechet_distance, kernel_distance

PASTED = ("copy_paste", "blending")


def true_pictures(truth: Any, scenes: Sequence[Scene]) -> np.ndarray:
    """Those u8[scenes, h, w, 3] of these very scenes, by a training set's options.

    Raises InputError where it is of others.
    """
    drawn = truth.open()
    if len(drawn) < len(scenes):
        given, rule = f"truth of {len(drawn)} pictures", f"each of the evaluation's {len(scenes)} scenes has its own"
        raise InputError(given, rule, f"set truth.size to {len(scenes)}")
    examples = drawn.batch(range(len(scenes)))
    for example, scene in zip(examples, scenes, strict=True):
        if (example.scene.id, example.scene.prompt) != (scene.id, scene.prompt):
            given, rule = f"truth of {example.scene.prompt!r}", f"the evaluation is of {scene.prompt!r} there"
            raise InputError(given, rule, "give it the evaluation's split, seed and characters")
    return np.stack([example.target for example in examples])


def pasted(
    true: np.ndarray, reward: Identity, scenes: Sequence[Scene], arms: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The measures `PASTED` f64[scenes, 2] of arms' pictures u8[scenes, k, h, w, 3], means over a scene's.

    `true` are the scenes' `true_pictures`.
    """
    measure, context, true = jax.jit(reward.measures), reward.encode(scenes), to_float(true)
    numbers = {}
    for arm, images in arms.items():
        found = [measure(reward.params, to_float(each), context, true) for each in images.swapaxes(0, 1)]
        numbers[arm] = np.mean([[each[name] for name in PASTED] for each in found], 0, np.float64).T
    return numbers


def distances_to(truth: Any, features: Features, arms: Mapping[str, np.ndarray]) -> dict[str, float]:
    """FID and KID of arms' pictures u8[scenes, k, h, w, 3] by a feature network, from a training set's true ones."""
    name, numbers = features.network.name, {}
    drawn = truth.open()
    true = features.of(np.stack([example.target for example in drawn.batch(range(len(drawn)))]))
    moments = Moments.of(true)
    for arm, images in arms.items():
        found = features.of(images.reshape(-1, *images.shape[2:]))
        numbers[f"fid_{name}/{arm}"] = frechet_distance(Moments.of(found), moments)
        for end, value in zip(("", "_low", "_high"), kernel_distance(found, true), strict=True):
            numbers[f"kid_{name}/{arm}{end}"] = value
    return numbers
