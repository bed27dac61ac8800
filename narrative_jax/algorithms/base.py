"""What the training loop calls an algorithm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.core.types import Params

Batch = dict[str, Any]  # arrays with a leading batch axis; "index" i32[b], from the step, is a place in the global one
POLICY, REFERENCE, REWARD = "policy", "reference", "reward"


class Role(NamedTuple):
    """A model and the weights it runs with."""

    model: Any
    params: Params


class Models(NamedTuple):
    """The policy is trained; the reference is the policy as it stood when training began; the reward judges.

    Those that an algorithm does not need are None.
    """

    policy: Role
    reference: Role | None = None
    reward: Role | None = None


class Loss(NamedTuple):
    """Sums over a batch, so that microbatches and devices add up exactly: loss / weight is the mean.

    `metrics` maps names to sums over the examples; their means are reported.
    """

    sum: jax.Array
    weight: jax.Array
    metrics: dict[str, jax.Array]


@dataclass(frozen=True)
class Algorithm:
    """Hyper-parameters and what to do with them; a subclass implements `loss`.

    `batch` names the records that it trains on, a word for each kind: "examples", "preferences", "scenes",
    "annotations", "squares", "pictures", "descriptions", "matches" or "masks". `roles` are the models that it needs.
    `whole_batch` says that an example's loss depends on the others of its batch, so that a batch must not be cut into
    microbatches; `parts` into how many `experience` cuts it, one after the other.
    """

    batch: ClassVar[str]
    roles: ClassVar[tuple[str, ...]] = (POLICY,)
    whole_batch: ClassVar[bool] = False
    parts: ClassVar[int] = 1

    def usable_gaps(self, gaps: np.ndarray, ids: Sequence[str]) -> np.ndarray:
        """What the gaps f64[n] of preferences (NaN: unknown) count as, before anything is trained.

        Raises InputError, naming one of `ids`, for gaps that the algorithm cannot train on.
        """
        return gaps

    def check_models(self, policy: Any, reward: Any = None) -> None:
        """Raise InputError for a policy, a preset or more, and a reward that the algorithm cannot train with."""

    def steadied(self) -> "Algorithm":
        """What takes as long as this on average, with loops of lengths that are known beforehand: to be planned."""
        return self

    def experience(self, models: Models, batch: Batch, key: jax.Array) -> Batch:
        """What is gathered from the whole global batch before the loss, without gradient; offline: the batch."""
        return batch

    def loss(self, models: Models, batch: Batch, key: jax.Array) -> Loss:
        """The loss of a batch or a part of one; pure."""
        raise NotImplementedError


def example_keys(key: jax.Array, batch: Batch) -> jax.Array:
    """A random key for each example, from its place in the global batch only."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])


def drawn(model: Any, key: jax.Array, batch: Batch, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """For each example a time f32[b] as the model is trained on, noise f32[b, *shape], and a key for what else."""

    def draw(key):
        time_key, noise_key, other = jax.random.split(key, 3)
        return model.timestep_distribution.sample(time_key, ()), jax.random.normal(noise_key, shape), other

    return jax.vmap(draw)(example_keys(key, batch))


def summed(loss: jax.Array, **metrics: jax.Array) -> Loss:
    """Per-example values f32[b] as sums."""
    return Loss(loss.sum(), jnp.float32(len(loss)), {name: jnp.float32(value).sum() for name, value in metrics.items()})
