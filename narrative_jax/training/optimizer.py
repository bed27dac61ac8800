"""AdamW with warm-up."""

from dataclasses import dataclass

import optax

from narrative_jax.core.errors import InputError, check_count, check_name

DECAYS = ("constant", "cosine")


@dataclass(frozen=True)
class Optimizer:
    """AdamW (Loshchilov & Hutter 2019): linear warm-up, then constant, or a cosine down to 0 at the last step."""

    learning_rate: float
    total_steps: int
    warmup_steps: int = 0
    decay: str = "constant"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    b2: float = 0.99

    def __post_init__(self):
        check_name("decay", self.decay, DECAYS)
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} {getattr(self, name)!r}", f"{name} is a number > 0", "give one")
        check_count("total_steps", self.total_steps, minimum=1)
        check_count("warmup_steps", self.warmup_steps)
        if self.warmup_steps >= self.total_steps:
            given = f"warmup_steps {self.warmup_steps} of {self.total_steps} steps"
            raise InputError(given, "the warm-up ends before the training", "shorten it")

    def schedule(self) -> optax.Schedule:
        """Learning rate by step."""
        if self.decay == "cosine":
            return optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, self.warmup_steps, self.total_steps)
        if self.warmup_steps:
            return optax.schedules.warmup_constant_schedule(0.0, self.learning_rate, self.warmup_steps)
        return optax.constant_schedule(self.learning_rate)  # optax takes a warm-up of 0 steps for one that never ends

    def build(self) -> optax.GradientTransformation:
        """The optax transformation; gradients are clipped to a global norm of `clip_norm`."""
        adamw = optax.adamw(self.schedule(), b2=self.b2, weight_decay=self.weight_decay)
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)
