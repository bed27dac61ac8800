"""What the training loop calls an algorithm."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from narrative_jax.core.types import Params

Batch = dict[str, Any]  # arrays with a leading batch axis; "index" i32[b] is each example's place in the global batch


class Role(NamedTuple):
    """A model and the weights it runs with."""

    model: Any
    params: Params


class Models(NamedTuple):
    """The policy is trained; the reference is the policy as it stood when training began, None where not needed."""

    policy: Role
    reference: Role | None


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

    `trains_on` names the kind of batch: "examples", "pairs", "matches" or "preferences". `needs_reference` says whether
    a reference is kept; `whole_batch`, that an example's loss depends on the others of its batch, so that a batch must
    not be cut into microbatches.
    """

    trains_on: ClassVar[str]
    needs_reference: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = False

    def experience(self, models: Models, batch: Batch, key: jax.Array) -> Batch:
        """What is gathered from the whole global batch before the loss, without gradient; offline: the batch."""
        return batch

    def loss(self, models: Models, batch: Batch, key: jax.Array) -> Loss:
        """The loss of a batch or a part of one; pure."""
        raise NotImplementedError


def example_keys(key: jax.Array, batch: Batch) -> jax.Array:
    """A random key for each example, from its place in the global batch only."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])


def summed(loss: jax.Array, **metrics: jax.Array) -> Loss:
    """Per-example values f32[b] as sums."""
    return Loss(loss.sum(), jnp.float32(len(loss)), {name: jnp.float32(value).sum() for name, value in metrics.items()})
