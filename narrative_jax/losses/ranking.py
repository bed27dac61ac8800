"""Losses of scores on which of two things is better."""

import jax
import jax.numpy as jnp


def bradley_terry(chosen, rejected, tie):
    """-log σ(chosen - rejected), f32[b], of scores f32[b]; where `tie` bool[b], half of it each way round.

    ImageReward's loss (Xu et al. 2023, eq. 1); ties as a preference of one half (Rao & Kupper 1967 would add a
    parameter).
    """
    difference = jnp.float32(chosen) - jnp.float32(rejected)
    loss = jax.nn.softplus(-difference)
    return jnp.where(tie, (loss + jax.nn.softplus(difference)) / 2, loss)
