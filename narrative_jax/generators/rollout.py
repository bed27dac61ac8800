"""From noise to latents with any generator: the guided step, and a rollout with a gradient through chosen steps."""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from narrative_jax.core.errors import InputError
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


def branches_of(text: float, subjects: float | None, subject_guidance: bool) -> list[Branch]:
    """What guidance by these scales compares with; see `sampling.Sampling`, which says what they are."""
    if subjects is None:
        subjects = text if subject_guidance else 1
    if text == subjects:
        return [Branch(text, text=True, subjects=True)] if text != 1 else []
    return [Branch(text, text=True)] + ([Branch(subjects, text=True, subjects=True)] if subjects != 1 else [])


def check_guidance(text: float, subjects: float | None, subject_guidance: bool = True) -> None:
    """Raise InputError for scales that are none, and for one of subjects unless the generator was trained for it."""
    for name, scale in {"guidance_scale": text, "subject_guidance_scale": 1 if subjects is None else subjects}.items():
        if not isinstance(scale, Real) or not 0 <= scale < float("inf"):
            raise InputError(f"{name} {scale!r}", "it is a number ≥ 0", "1.0 is off")
    if subjects not in (None, 1) and not subject_guidance:
        rule = "this generator was not trained on scenes without their subjects"
        raise InputError(f"subject_guidance_scale {subjects:g}", rule, "leave it out")


def guided_prediction(
    generator: Generator, params: Params, conditioning: Any, branches: Sequence[Branch] = (), through: str = "all"
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(noisy f32[b, ...], t f32[b]) -> prediction f32[b, ...], guided as `guide` has it; no branch is no guidance.

    All branches pass the denoiser as one batch, and what does not change over times is worked out here, once. A
    gradient goes `through` "all" predictions, or through the "first", which lacks nothing, alone.
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

    def predict(noisy, t):
        noisy, t = (jnp.repeat(x, count, 0) for x in (noisy, t))
        found = jnp.float32(generator.denoise(params, noisy, t, conditioning, prepared))
        first, *others = jnp.moveaxis(found.reshape(rows, count, *found.shape[1:]), 1, 0)
        others = others if through == "all" else [jax.lax.stop_gradient(other) for other in others]
        return guide([first, *others], [branch.scale for branch in branches])

    return predict


def guided_velocity(
    generator: Generator, params: Params, conditioning: Any, branches: Sequence[Branch] = ()
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The velocity that `guided_prediction` means."""
    predict = guided_prediction(generator, params, conditioning, branches)
    return lambda noisy, t: to_velocity(predict(noisy, t), noisy, t, generator.prediction_type)


def rollout(
    generator: Generator,
    params: Params,
    conditioning: Any,
    noise: jax.Array,
    times: jax.Array,
    branches: Sequence[Branch] = (),
    method: str = "euler",
    followed: jax.Array | None = None,
    stop: jax.Array | None = None,
) -> jax.Array:
    """Latents f32[b, ...] at the last of `times` f32[n + 1], from `noise` at the first; after `stop` steps with it.

    Where `followed` bool[n] is given, gradients pass the networks of those steps alone; see `samplers.sample`.
    """
    velocity = guided_velocity(generator, params, conditioning, branches)
    return sample(velocity, noise, times, method, followed, stop)
