"""Losses of networks that tell a subject from its background."""

import jax.numpy as jnp
import optax


def levels_cross_entropy(logits, mask):
    """Binary cross-entropy, mean over pixels and summed over levels, f32[b] (Qin et al. 2022, IS-Net, eq. 2).

    `logits` f32[levels, b, h, w] of the subject, `mask` bool[b, h, w] where it is.
    """
    entropy = optax.sigmoid_binary_cross_entropy(jnp.float32(logits), jnp.float32(mask))
    return entropy.mean((2, 3)).sum(0)


def overlap(logits, mask):
    """Intersection over union f32[b] of where logits f32[b, h, w] are above 0 and a mask; 1 where both are empty."""
    found, mask = logits > 0, jnp.asarray(mask, bool)
    either = (found | mask).sum((1, 2))
    return jnp.where(either > 0, (found & mask).sum((1, 2)) / jnp.maximum(either, 1), 1.0)
