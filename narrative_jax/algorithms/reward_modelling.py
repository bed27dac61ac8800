"""Training of rewards on preferences."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from narrative_jax.algorithms.base import Algorithm, Loss, summed
from narrative_jax.losses.ranking import bradley_terry


@dataclass(frozen=True)
class RewardModelling(Algorithm):
    """The chosen picture scores higher than the rejected one, the surer the farther apart (Bradley & Terry 1952)."""

    batch: ClassVar[str] = "preferences"

    def loss(self, models, batch, key) -> Loss:
        """`batch`: chosen and rejected f32[b, h, w, 3] in [-1, 1], the scenes' context, tie bool[b], index i32[b]."""
        reward, params = models.policy
        pictures = jnp.concatenate([batch["chosen"], batch["rejected"]])
        twice = jax.tree.map(lambda part: jnp.concatenate([part, part]), batch["context"])
        chosen, rejected = jnp.split(reward.score(params, pictures, twice)[:, 0], 2)
        loss = bradley_terry(chosen, rejected, batch["tie"])
        return summed(loss, accuracy=chosen > rejected)
