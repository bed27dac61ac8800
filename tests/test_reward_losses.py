"""z-scores and clipped gradients of rewards against numbers recomputed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from narrative_jax.losses.reward_gradients import with_clipped_gradient, z_score, z_score_statistics

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


def pulled(images, factors, limit, element_wise=False):
    """The gradient of the weighted sum of a reward whose own gradient on a picture is the picture."""

    def reward(params, x, context):
        return jnp.square(jnp.float32(x)).sum((1, 2)) / 2

    def total(x):
        return (jnp.float32(factors) * with_clipped_gradient(reward, limit, element_wise, None, x, None)).sum()

    return jax.jit(jax.grad(total))(images)


def test_clipped_gradient_golden():
    """∂R/∂image (3, 4), (0.3, 0.4) and (0, 0) with norms 5, 0.5 and 0; clipped at 1, then times the factors."""
    images = jnp.float32([[[3], [4]], [[0.3], [0.4]], [[0], [0]]])
    slope = pulled(images, [1, 1, 1], 1.0)[..., 0]
    np.testing.assert_allclose(slope, [[0.6, 0.8], [0.3, 0.4], [0, 0]], rtol=1e-6)
    slope = pulled(images, [-10, 0.5, 7], 1.0)[..., 0]
    np.testing.assert_allclose(slope, [[-6, -8], [0.15, 0.2], [0, 0]], rtol=1e-6)


def test_element_wise_clip_golden():
    images = jnp.float32([[[3], [-0.5]], [[0.3], [0.4]]])
    slope = pulled(images, [1, 1], 0.35, element_wise=True)[..., 0]
    np.testing.assert_allclose(slope, [[0.35, -0.35], [0.3, 0.35]], rtol=1e-6)
    slope = pulled(images, [-2, 10], 0.35, element_wise=True)[..., 0]
    np.testing.assert_allclose(slope, [[-0.7, 0.7], [3, 3.5]], rtol=1e-6)


@pytest.mark.parametrize("element_wise", [False, True])
def test_clipped_gradient_keeps_the_type(element_wise):
    slope = pulled(jnp.full((2, 4, 3), 0.5, jnp.bfloat16), [100, 100], 0.2, element_wise)
    assert slope.dtype == jnp.bfloat16
    per_picture = jnp.linalg.norm(jnp.float32(slope).reshape(2, -1), axis=1)
    np.testing.assert_allclose(per_picture, 20 * (12**0.5 if element_wise else 1), rtol=1e-2)
