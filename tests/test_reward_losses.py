"""z-scores and clipped gradients of rewards against numbers recomputed by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.losses.reward_gradients import clipped_pull, pull_norms, z_score, z_score_statistics

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


def test_clipped_pull_golden():
    """Pulls (3, 4), (0.3, 0.4) and (0, 0) with norms 5, 0.5 and 0, clipped at 1."""
    pulls = jnp.float32([[[3], [4]], [[0.3], [0.4]], [[0], [0]]])
    np.testing.assert_allclose(pull_norms(pulls), [5, 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(clipped_pull(pulls, 1.0)[..., 0], [[0.6, 0.8], [0.3, 0.4], [0, 0]], rtol=1e-6)


def test_element_wise_clip_golden():
    pulls = jnp.float32([[[3], [-0.5]], [[0.3], [0.4]]])
    found = clipped_pull(pulls, 0.35, element_wise=True)[..., 0]
    np.testing.assert_allclose(found, [[0.35, -0.35], [0.3, 0.35]], rtol=1e-6)
