"""Losses of words."""

import jax
import jax.numpy as jnp


def token_cross_entropy(logits: jax.Array, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """-log π(token | before) in nats, the mean over a text's tokens, f32[...]; 0 for an empty one.

    `logits` f32[..., n, vocabulary] are what is expected in the places of `tokens` i32[..., n], `mask` bool[..., n]
    says which of these are no padding. Per token, so that a long text weighs no more than a short one.
    """
    surprise = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0]
    return jnp.where(mask, surprise, 0).sum(-1) / jnp.maximum(mask.sum(-1), 1)
