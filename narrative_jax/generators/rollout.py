"""From noise to latents with any generator: the guided step, and a rollout with a gradient through chosen steps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from narrative_jax.core.types import Params
from narrative_jax.diffusion.guidance import guide
from narrative_jax.diffusion.path import to_velocity
from narrative_jax.diffusion.samplers import sample
from narrative_jax.generators.base import Generator


class Branch(NamedTuple):
    """A prediction without the text, the subjects or both, and the scale of what its absence makes of it."""

    scale: jax.Array | float
    text: bool = False
    subjects: bool = False


def guided_velocity(
    generator: Generator, params: Params, conditioning: Any, branches: Sequence[Branch] = ()
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(noisy f32[b, ...], t f32[b]) -> velocity f32[b, ...], guided as `guide` has it; no branch is no guidance.

    All branches pass the denoiser as one batch, and what does not change over times is worked out here, once.
    """
    rows, count = len(jax.tree.leaves(conditioning)[0]), 1 + len(branches)
    everywhere = jnp.ones(rows, bool)
    kinds = [conditioning]
    for branch in branches:
        dropped = {kind: everywhere for kind in ("text", "subjects") if getattr(branch, kind)}
        kinds.append(generator.drop(conditioning, **dropped))
    # What is predicted of a picture lies side by side, so that nothing moves where pictures are spread over devices.
    conditioning = jax.tree.map(lambda *parts: jnp.stack(parts, 1).reshape(-1, *parts[0].shape[1:]), *kinds)
    prepared = generator.prepare(params, conditioning)

    def velocity(noisy, t):
        noisy, t = (jnp.repeat(x, count, 0) for x in (noisy, t))
        prediction = generator.denoise(params, noisy, t, conditioning, prepared)
        found = to_velocity(prediction, noisy, t, generator.prediction_type)
        found = found.reshape(rows, count, *found.shape[1:])
        return guide([found[:, place] for place in range(count)], [branch.scale for branch in branches])

    return velocity


def rollout(
    generator: Generator,
    params: Params,
    conditioning: Any,
    noise: jax.Array,
    times: jax.Array,
    branches: Sequence[Branch] = (),
    method: str = "euler",
    followed: jax.Array | None = None,
) -> jax.Array:
    """Latents f32[b, ...] at the last of `times` f32[n + 1], from `noise` at the first.

    Where `followed` bool[n] is given, gradients pass the networks of those steps alone; see `samplers.sample`.
    """
    velocity = guided_velocity(generator, params, conditioning, branches)
    return sample(velocity, noise, times, method, followed)
