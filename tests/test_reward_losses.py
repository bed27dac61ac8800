"""z-scores and clipped gradients of rewards against numbers recomputed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from narrative_jax.losses.rewards import clip_gradient, z_score, z_score_statistics

REWARDS = np.float32([[1.0, 5.0], [3.0, 5.1], [8.0, 4.9]])


def test_z_score_golden():
    """Means 4 and 5; deviations √(26/3) = 2.943920, and √(0.02/3) = 0.081650, which is floored at 0.1 × 3."""
    mean, deviation = z_score_statistics(REWARDS, [2.0, 3.0])
    np.testing.assert_allclose(mean, [4, 5], rtol=1e-6)
    np.testing.assert_allclose(deviation, [2.943920, 0.3], rtol=1e-5)
    expected = [[-3 / 2.943920, 0], [-1 / 2.943920, 1 / 3], [4 / 2.943920, -1 / 3]]
    np.testing.assert_allclose(z_score(REWARDS, mean, deviation), expected, atol=1e-5)


def test_a_batch_of_one_has_the_least_deviation():
    mean, deviation = z_score_statistics([[7.0]], [0.5])
    np.testing.assert_allclose([mean[0], deviation[0]], [7, 0.05], rtol=1e-6)
    np.testing.assert_array_equal(z_score([[7.0]], mean, deviation), [[0]])


def test_the_statistics_are_constants_for_differentiation():
    """With them differentiated, the mean of the z-scores would have no gradient; with them held it is 1 / (b · σ)."""

    def mean_z(rewards):
        return z_score(rewards, *z_score_statistics(rewards, [2.0, 3.0])).mean(0)

    np.testing.assert_allclose(mean_z(REWARDS), [0, 0], atol=1e-6)
    slope = jax.grad(lambda rewards: mean_z(rewards).sum())(REWARDS)
    np.testing.assert_allclose(slope, np.tile([1 / (3 * 2.943920), 1 / (3 * 0.3)], (3, 1)), rtol=1e-5)


def test_statistics_of_the_whole_serve_its_parts():
    statistics = z_score_statistics(REWARDS, [2.0, 3.0])
    parts = np.concatenate([z_score(REWARDS[i : i + 1], *statistics) for i in range(3)])
    np.testing.assert_allclose(parts, z_score(REWARDS, *statistics), rtol=1e-6)


def test_clip_gradient_golden():
    """Gradients (3, 4), (0.3, 0.4) and (0, 0) with norms 5, 0.5 and 0, clipped at 1."""
    images, pull = jnp.float32([[[1], [2]], [[3], [4]], [[5], [6]]]), jnp.float32([[3, 4], [0.3, 0.4], [0, 0]])
    np.testing.assert_array_equal(clip_gradient(images, 1.0), images)
    slope = jax.grad(lambda x: (clip_gradient(x, 1.0)[..., 0] * pull).sum())(images)[..., 0]
    np.testing.assert_allclose(slope, [[0.6, 0.8], [0.3, 0.4], [0, 0]], rtol=1e-6)
    slope = jax.grad(lambda x: (clip_gradient(x, jnp.float32([10, 0.25, 1]))[..., 0] * pull).sum())(images)[..., 0]
    np.testing.assert_allclose(slope, [[3, 4], [0.15, 0.2], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_clip_gradient_keeps_the_type_and_compiles(dtype):
    images = jnp.full((2, 4, 4, 3), 0.5, dtype)
    slope = jax.jit(jax.grad(lambda x: (100 * jnp.float32(clip_gradient(x, 0.2))).sum()))(images)
    assert slope.dtype == dtype
    np.testing.assert_allclose(jnp.linalg.norm(jnp.float32(slope).reshape(2, -1), axis=1), 0.2, rtol=1e-2)


def test_the_gradient_of_a_reward_is_clipped_before_its_factor():
    """UPER: ∂R/∂image clipped at τ, then the deviation, the weight and the mean over the batch."""
    images = jnp.float32(
        np.random.default_rng(0).normal(size=(4, 5, 5, 3)) * np.float32([0.01, 0.1, 1, 2])[:, None, None, None]
    )
    tau, weight = 0.2, 0.4

    def reward(x):
        return jnp.square(x).mean((1, 2, 3), keepdims=True)[:, :, 0, 0]

    mean, deviation = z_score_statistics(reward(images), [0.3])
    limit = tau * weight / (deviation[0] * len(images))
    slope = jax.grad(lambda x: weight * z_score(reward(clip_gradient(x, limit)), mean, deviation).mean())(images)

    raw = np.float64(2 * images / 75)
    norms = np.sqrt((raw**2).sum((1, 2, 3)))
    assert (norms > tau).any() and (norms < tau).any()
    clipped = raw * np.minimum(1, tau / norms)[:, None, None, None]
    np.testing.assert_allclose(slope, clipped * weight / (float(deviation[0]) * 4), rtol=1e-4)
