"""AdamW or Muon, with warm-up."""

from dataclasses import dataclass

import jax
import optax
import optax.contrib

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.types import Params
from narrative_jax.models.stacks import EACH

METHODS = ("adamw", "muon")
DECAYS = ("constant", "cosine")


@dataclass(frozen=True)
class Optimizer:
    """The optimiser and its learning rate: linear warm-up, then constant, or a cosine down to 0 at the last step.

    AdamW (Loshchilov & Hutter 2019), or Muon (Jordan 2024) for matrices with AdamW for the rest. One learning rate
    serves both: it is the root mean square of Muon's updates, and about that of Adam's first ones.
    """

    learning_rate: float
    method: str = "adamw"
    warmup_steps: int = 0
    decay: str = "constant"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    b2: float = 0.99

    def __post_init__(self):
        check_name("method", self.method, METHODS)
        check_name("decay", self.decay, DECAYS)
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} {getattr(self, name)!r}", f"{name} is a number > 0", "give one")
        check_count("warmup_steps", self.warmup_steps)

    def schedule(self, total_steps: int) -> optax.Schedule:
        """Learning rate by step. Raises InputError for a warm-up as long as the training."""
        check_count("total_steps", total_steps, minimum=1)
        if self.warmup_steps >= total_steps:
            given = f"warmup_steps {self.warmup_steps} of {total_steps} steps"
            raise InputError(given, "the warm-up ends before the training", "shorten it")
        if self.decay == "cosine":
            return optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, self.warmup_steps, total_steps)
        if self.warmup_steps:
            return optax.schedules.warmup_constant_schedule(0.0, self.learning_rate, self.warmup_steps)
        return optax.constant_schedule(self.learning_rate)  # optax takes a warm-up of 0 steps for one that never ends

    def build(self, total_steps: int) -> optax.GradientTransformation:
        """The optax transformation; gradients are clipped to a global norm of `clip_norm`. Raises InputError."""
        rate, decay = self.schedule(total_steps), self.weight_decay
        if self.method == "muon":
            adam = {"adam_b2": self.b2, "adam_weight_decay": decay}
            matrices = {"muon_weight_dimension_numbers": _matrices}
            method = optax.contrib.muon(rate, weight_decay=decay, consistent_rms=1.0, **adam, **matrices)
        else:
            method = optax.adamw(rate, b2=self.b2, weight_decay=decay)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), method)


def _matrices(params: Params) -> dict[str, optax.contrib.MuonDimensionNumbers | None]:
    """Which axes of each weight are those of a matrix, None of one that is none: in a stack each block has its own."""

    def axes(path, weight):
        first = int(EACH in path[-1].key.split("."))
        return optax.contrib.MuonDimensionNumbers(first, first + 1) if weight.ndim == first + 2 else None

    return jax.tree.map_with_path(axes, params)  # of what stands in for the weights, too, as optax asks
