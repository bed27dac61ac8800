"""Which times are trained on, and which a sampler visits."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from narrative_jax.core.errors import InputError, check_count


@dataclass(frozen=True)
class LogitNormal:
    """t = sigmoid(mean + std · n), n ~ N(0, 1): mostly middle times (Esser et al. 2024, sec. 3.1)."""

    mean: float = 0.0
    std: float = 1.0

    def sample(self, key, shape):
        """Times f32[shape] in (0, 1)."""
        return jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key, shape, jnp.float32))


def sampler_grid(num_steps, shift=1.0):
    """The sampler's decreasing times f32[num_steps + 1], from 1 to 0; see `flow_shift`. Raises InputError."""
    check_count("num_steps", num_steps, minimum=1)
    if not shift > 0:
        raise InputError(f"shift {shift!r}", "shift is a number > 0", "1.0 spaces the times evenly")
    return jnp.float32(flow_shift(jnp.linspace(1.0, 0.0, num_steps + 1), shift))


def flow_shift(t, shift):
    """Move times towards the noise for `shift` > 1: shift · t / (1 + (shift - 1) · t), keeping 0 and 1.

    Esser et al. 2024, "Scaling rectified flow transformers", eq. 23; FLUX writes shift = exp(mu).
    """
    return shift * t / (1 + (shift - 1) * t)
