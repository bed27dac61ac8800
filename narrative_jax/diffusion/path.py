"""The straight path from data to noise, noisy = (1 - t) · clean + t · noise, and what a denoiser predicts on it.

t in [0, 1], 0 = data, 1 = noise; velocity = noise - clean.

Conversions divide by t alone, as (noisy - clean) / t, or by 1 - t, as (noise - noisy) / (1 - t). Their divisors are
floored at T_FLOOR, so a conversion and its inverse agree for t in [T_FLOOR, 1 - T_FLOOR] and stay finite beyond.
"""

import jax.numpy as jnp

from narrative_jax.core.errors import check_name

_KIND = "prediction type"
PREDICTION_TYPES = ("velocity", "clean", "noise")
T_FLOOR = 0.05


def per_example(values, like):
    """Values f32[b] as f32[b, 1, ...], to broadcast against `like` [b, ...]."""
    values = jnp.asarray(values, jnp.float32)
    return values.reshape(values.shape + (1,) * (jnp.ndim(like) - values.ndim))


def add_noise(clean, noise, t):
    """Noisy latents f32[b, ...] on the straight path (Liu et al. 2023, "Flow straight and fast"), t f32[b]."""
    t = per_example(t, clean)
    return (1 - t) * jnp.float32(clean) + t * jnp.float32(noise)


def to_velocity(prediction, noisy, t, prediction_type):
    """Velocity f32[b, ...] of a prediction at noisy latents [b, ...], t f32[b]. Raises InputError."""
    prediction, noisy, t = jnp.float32(prediction), jnp.float32(noisy), per_example(t, noisy)
    if prediction_type == "clean":
        return (noisy - prediction) / jnp.maximum(t, T_FLOOR)
    if prediction_type == "noise":
        return (prediction - noisy) / jnp.maximum(1 - t, T_FLOOR)
    return prediction if prediction_type == "velocity" else check_name(_KIND, prediction_type, PREDICTION_TYPES)


def to_clean(prediction, noisy, t, prediction_type):
    """The clean latents f32[b, ...] that a prediction at noisy latents [b, ...], t f32[b], means. Raises InputError.

    Only of a noise prediction, near t = 1, does it divide.
    """
    prediction, noisy, t = jnp.float32(prediction), jnp.float32(noisy), per_example(t, noisy)
    if prediction_type == "velocity":
        return noisy - t * prediction
    if prediction_type == "noise":
        return (noisy - t * prediction) / jnp.maximum(1 - t, T_FLOOR)
    return prediction if prediction_type == "clean" else check_name(_KIND, prediction_type, PREDICTION_TYPES)


def from_velocity(velocity, noisy, t, prediction_type):
    """The prediction f32[b, ...] of the given type that means this velocity. Raises InputError."""
    check_name(_KIND, prediction_type, PREDICTION_TYPES)
    velocity, noisy, t = jnp.float32(velocity), jnp.float32(noisy), per_example(t, noisy)
    if prediction_type == "clean":
        return noisy - t * velocity
    if prediction_type == "noise":
        return noisy + (1 - t) * velocity
    return velocity
