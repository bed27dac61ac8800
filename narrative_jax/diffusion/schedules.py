"""The straight path: noisy = (1 - t) · clean + t · noise, with t in [0, 1], 0 = data, 1 = noise."""

import jax.numpy as jnp

# FLUX: mu is 0.5 at 256 tokens and 1.15 at 4096, linear between and beyond.
_MU_SLOPE = (1.15 - 0.5) / (4096 - 256)
_MU_OFFSET = 0.5 - 256 * _MU_SLOPE


def per_example(values, like):
    """Values f32[b] as f32[b, 1, ...], to broadcast against `like` [b, ...]."""
    values = jnp.asarray(values, jnp.float32)
    return values.reshape(values.shape + (1,) * (jnp.ndim(like) - values.ndim))


def add_noise(clean, noise, t):
    """Noisy latents f32[b, ...] on the straight path (Liu et al. 2023, "Flow straight and fast"), t f32[b]."""
    t = per_example(t, clean)
    return (1 - t) * jnp.float32(clean) + t * jnp.float32(noise)


def flow_shift(t, shift):
    """Move times towards the noise for `shift` > 1: shift · t / (1 + (shift - 1) · t), keeping 0 and 1.

    Esser et al. 2024, "Scaling rectified flow transformers", eq. 23; FLUX writes shift = exp(mu).
    """
    return shift * t / (1 + (shift - 1) * t)


def flux_shift_mu(num_tokens):
    """FLUX's mu for pictures of `num_tokens` latent tokens; `flow_shift` takes its exponential."""
    return _MU_SLOPE * num_tokens + _MU_OFFSET
