"""Contrastive training of encoders on pairs: captions and pictures (CLIP, Radford et al. 2021), or two pictures."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import jax
import jax.numpy as jnp

from narrative_jax.algorithms.base import Algorithm, Loss, example_keys, summed
from narrative_jax.core.errors import InputError
from narrative_jax.losses.contrastive import clip_contrastive

_STRIDE = 1.25  # times `ascent`: Wong et al. 2020


@dataclass(frozen=True)
class Contrastive(Algorithm):
    """Each first half of a pair finds its second among those of the global batch, and each second its first.

    Before that each pixel of the second halves, which are pictures, is moved by `ascent` (of a range of 2) at most, so
    that they are found less: adversarial training by one step from a random start (Wong et al. 2020, "Fast is better
    than free"). Without it, changes too small to see drive an encoder's cosines wherever a gradient leads.
    """

    batch: ClassVar[str] = "matches"
    whole_batch: ClassVar[bool] = True
    ascent: float = 0.0

    def __post_init__(self):
        if not isinstance(self.ascent, Real) or not 0 <= self.ascent < math.inf:
            raise InputError(f"ascent {self.ascent!r}", "it is a number ≥ 0, of a range of 2", "0.0 is off")

    def loss(self, models, batch, key) -> Loss:
        """`batch`: first and second, as the network takes them, index i32[b]."""
        network = models.policy.model.network.bind(models.policy.params)

        def compare(pictures):
            first, second = network(batch["first"], pictures)
            return clip_contrastive(first, second, network.logit_scale), first @ second.T

        pictures = batch["second"]
        if self.ascent:
            pictures = _worst_found(lambda moved: compare(moved)[0], pictures, self.ascent, example_keys(key, batch))
        loss, similarity = compare(pictures)
        return summed(loss, accuracy=similarity.argmax(1) == batch["index"])


def _worst_found(losses, pictures, most, keys):
    """Pictures f32[b, ...] near the given ones whose losses are higher; a constant for differentiation."""
    start = jax.vmap(lambda key: jax.random.uniform(key, pictures.shape[1:], minval=-most, maxval=most))(keys)
    uphill = jnp.sign(jax.grad(lambda moved: losses(pictures + moved).sum())(start))
    moved = (start + _STRIDE * most * uphill).clip(-most, most)
    return jax.lax.stop_gradient((pictures + moved).clip(-1, 1))
