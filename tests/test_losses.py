"""Denoising and preference losses against numbers recomputed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.diffusion.path import PREDICTION_TYPES, T_FLOOR, add_noise, from_velocity
from narrative_jax.losses.denoising import velocity_error, velocity_residual
from narrative_jax.losses.preference import (
    adaptive_beta,
    check_adaptive_beta,
    dpo,
    margin,
    scale_gradient,
    winner_preserving_scale,
)
from narrative_jax.losses.ranking import bradley_terry


def draws(*shape, seed=0):
    return np.float32(np.random.default_rng(seed).normal(size=shape))


# Denoising


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_perfect_prediction_has_no_error_at_any_time(prediction_type):
    clean, noise, t = draws(5, 2, 3), draws(5, 2, 3, seed=1), np.float32([0, 0.01, 0.5, 0.99, 1])
    perfect = {"velocity": noise - clean, "clean": clean, "noise": noise}[prediction_type]
    error = velocity_error(perfect, clean, noise, add_noise(clean, noise, t), t, prediction_type=prediction_type)
    np.testing.assert_allclose(error, np.zeros(5), atol=1e-9)


def test_velocity_error_is_the_mean_square():
    clean, noise, prediction = draws(3, 4, 2, 3)
    t = np.float32([0.1, 0.4, 0.8, 1.0])
    error = velocity_error(prediction, clean, noise, add_noise(clean, noise, t), t, prediction_type="velocity")
    expected = [((prediction[i] - (noise[i] - clean[i])) ** 2).sum() / 6 for i in range(4)]
    np.testing.assert_allclose(error, expected, rtol=1e-6)


def test_a_clean_prediction_counts_by_its_time():
    clean, noise, prediction = draws(3, 4, 2, 3)
    t = np.float32([0.01, 0.2, 0.5, 1.0])
    error = velocity_error(prediction, clean, noise, add_noise(clean, noise, t), t, prediction_type="clean")
    expected = ((prediction - clean) ** 2).mean((1, 2)) / np.maximum(t, T_FLOOR) ** 2
    np.testing.assert_allclose(error, expected, rtol=1e-4)


def test_the_error_is_the_same_whatever_the_network_predicts():
    clean, noise, velocity = draws(3, 4, 2, 3)
    t = np.float32([0.1, 0.4, 0.8, 0.9])
    noisy = add_noise(clean, noise, t)
    errors = [
        velocity_error(from_velocity(velocity, noisy, t, kind), clean, noise, noisy, t, prediction_type=kind)
        for kind in PREDICTION_TYPES
    ]
    np.testing.assert_allclose(errors[1:], [errors[0]] * 2, rtol=1e-4)


def test_half_precision_is_computed_in_full():
    clean, noise, prediction = (jnp.bfloat16(x) for x in draws(3, 4, 64))
    t = np.float32([0.1, 0.4, 0.8, 0.9])
    arrays = [np.float32(x) for x in (prediction, clean, noise)]
    expected = ((arrays[0] - (arrays[2] - arrays[1])) ** 2).mean(1)
    error = velocity_error(prediction, clean, noise, add_noise(clean, noise, t), t, prediction_type="velocity")
    assert error.dtype == jnp.float32
    np.testing.assert_allclose(error, expected, rtol=1e-6)


def test_unknown_prediction_type():
    zeros = np.zeros((1, 2))
    with pytest.raises(InputError, match="did you mean 'noise'"):
        velocity_residual(zeros, zeros, zeros, zeros, np.zeros(1), prediction_type="noize")


# Preference


def test_policy_equal_to_reference_gives_log_2():
    chosen, rejected = np.abs(draws(2, 6))
    np.testing.assert_allclose(dpo(margin(chosen, chosen, rejected, rejected), 5000.0), np.log(2), rtol=1e-6)


def test_swapping_chosen_and_rejected_negates_the_margin():
    chosen, chosen_reference, rejected, rejected_reference = draws(4, 6)
    one = margin(chosen, chosen_reference, rejected, rejected_reference)
    other = margin(rejected, rejected_reference, chosen, chosen_reference)
    np.testing.assert_array_equal(one, -other)
    assert np.abs(one).min() > 0.01


def test_dpo_golden():
    """The chosen error fell by 0.1, the rejected one rose by 0.2: margin 0.3; with β 20, -log σ(3) = 0.048587."""
    gained = margin([0.4], [0.5], [0.9], [0.7])
    np.testing.assert_allclose(gained, [0.3], rtol=1e-6)
    np.testing.assert_allclose(dpo(gained, 20.0), [np.log1p(np.exp(-3))], rtol=1e-5)
    np.testing.assert_allclose(dpo(gained, 20.0), [0.048587], atol=1e-6)
    np.testing.assert_allclose(dpo(-gained, 20.0), [3.048587], atol=1e-5)


def test_dpo_keeps_the_half_and_stays_finite():
    slope = jax.grad(lambda m: dpo(m, 2000.0))(0.0)
    assert float(slope) == pytest.approx(-2000 / 4)  # -β/2 · σ(0)
    np.testing.assert_allclose(dpo(np.float32([-10, 10]), 2000.0), [10_000, 0])
    betas = jnp.float32([2.0, 4.0])
    np.testing.assert_allclose(dpo(np.float32([1, 1]), betas), np.log1p(np.exp([-1.0, -2.0])), rtol=1e-6)


def test_adaptive_beta_golden():
    gap = np.array([0.0, 0.5, 2.0])
    expected = [1000 * (1 + 0.8 * (1 - np.exp(-1.5 * (a - 0.5)))) for a in gap]
    values = adaptive_beta(gap, beta=1000.0, eta=0.8, k=1.5, b=0.5)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert float(values[1]) == pytest.approx(1000) and (np.diff(values) > 0).all()
    np.testing.assert_allclose(adaptive_beta(gap, beta=1000.0, eta=0.0, k=1.5, b=0.5), 1000)


@pytest.mark.parametrize("eta, k, b", [(0.5, 1.0, 1.0), (0.0, 5.0, 9.0), (3.0, 2.0, -1.0), (2.0, 0.0, 7.0)])
def test_adaptive_beta_that_stays_positive(eta, k, b):
    check_adaptive_beta(eta, k, b)
    assert (adaptive_beta(np.linspace(0, 10, 101), beta=1.0, eta=eta, k=k, b=b) > 0).all()


@pytest.mark.parametrize("eta, k, b", [(1.0, 1.0, 1.0), (1.0, 1.0, np.log(2)), (0.6, 1.0, 1.0), (1.0, 100.0, 100.0)])
def test_adaptive_beta_that_could_turn_negative(eta, k, b):
    with pytest.raises(InputError, match="must be positive; lower b below"):
        check_adaptive_beta(eta, k, b)
    with np.errstate(over="ignore"):
        assert not adaptive_beta(0.0, beta=1.0, eta=eta, k=k, b=b) > 1e-6


@pytest.mark.parametrize("eta, k, b", [(-0.1, 1.0, 0.0), (0.1, -1.0, 0.0), (0.1, 1.0, np.nan), (np.inf, 1.0, 0.0)])
def test_adaptive_beta_of_no_sense(eta, k, b):
    with pytest.raises(InputError, match="eta and k are finite"):
        check_adaptive_beta(eta, k, b)


# The chosen error must not rise


def test_winner_preserving_scale_golden():
    chosen = np.float32([[1, 0], [1, 0], [1, 0], [0, 0]])
    rejected = np.float32([[4, 3], [0.5, 0], [-4, 3], [1, 1]])
    np.testing.assert_allclose(winner_preserving_scale(chosen, rejected, mu=0.0), [0.25, 1, 1, 1])
    np.testing.assert_allclose(winner_preserving_scale(chosen, rejected, mu=0.2), [0.2, 1, 1, 1])


@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0])
def test_a_step_along_the_combined_gradient_keeps_the_chosen_error(mu):
    """Both branches move the output together, as they do in one network."""
    target, output, rejected = draws(3, 200, 2, 5)
    rejected = 3 * rejected + (output - target)  # many conflicts, not all
    chosen = output - target
    scale = winner_preserving_scale(chosen, rejected, mu=mu)[:, None, None]

    def error(scale, step=1e-3):
        return np.square(output - step * (chosen - scale * rejected) - target).mean((1, 2))

    before, second_order = np.square(chosen).mean((1, 2)), 1e-6 * np.square(chosen - scale * rejected).mean((1, 2))
    least_fall = 2e-3 * mu * before
    assert (error(scale) <= before - least_fall + second_order + 1e-6).all()
    assert (error(1.0) > before + 1e-5).any()  # without it some chosen errors do rise
    assert 0.05 < (np.asarray(scale) < 1).mean() < 1


def test_the_scale_is_a_constant_for_differentiation():
    chosen, rejected = draws(2, 3, 4)
    chosen_slope = jax.grad(lambda c: winner_preserving_scale(c, rejected, mu=0.1).sum())(chosen)
    np.testing.assert_array_equal(chosen_slope, 0)


def test_scale_gradient_changes_the_gradient_alone():
    values, scale = jnp.float32([2.0, 3.0]), jnp.float32([0.25, 1.0])
    np.testing.assert_array_equal(scale_gradient(values, scale), values)
    slope = jax.grad(lambda v: (scale_gradient(v, scale) ** 2).sum())(values)
    np.testing.assert_allclose(slope, [2 * 2 * 0.25, 2 * 3])


# Ranking


def test_bradley_terry_golden():
    chosen, rejected = draws(2, 6)
    tie = np.array([False, True] * 3)
    likely = 1 / (1 + np.exp(np.float64(rejected) - chosen))
    expected = np.where(tie, -(np.log(likely) + np.log(1 - likely)) / 2, -np.log(likely))
    loss = bradley_terry(chosen, rejected, tie)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert loss.dtype == jnp.float32


def test_equal_scores_cost_log_2():
    scores = draws(4)
    for tie in (False, True):
        np.testing.assert_allclose(bradley_terry(scores, scores, np.full(4, tie)), np.full(4, np.log(2)), rtol=1e-6)


def test_swapping_chosen_and_rejected_is_the_other_half_of_the_odds():
    """exp(-loss) are the two chances of a pair, which sum to 1; a tie has no direction."""
    chosen, rejected = draws(2, 5)
    for tie in (np.zeros(5, bool), np.ones(5, bool)):
        one, other = bradley_terry(chosen, rejected, tie), bradley_terry(rejected, chosen, tie)
        if tie.all():
            np.testing.assert_allclose(one, other, rtol=1e-6)
        else:
            np.testing.assert_allclose(np.exp(-one) + np.exp(-other), np.ones(5), rtol=1e-6)
            assert ((one < other) == (chosen > rejected)).all()


def test_a_tie_pulls_scores_together_and_a_preference_apart():
    def slope(difference, tie):
        return jax.grad(lambda d: bradley_terry(d[None], jnp.zeros(1), np.array([tie]))[0])(jnp.float32(difference))

    assert float(slope(0, True)) == 0 and float(slope(0, False)) == -0.5
    assert float(slope(2, True)) == pytest.approx(1 / (1 + np.exp(-2)) - 0.5, rel=1e-6)
    assert float(slope(-2, True)) == -float(slope(2, True))
    assert float(slope(2, False)) == pytest.approx(1 / (1 + np.exp(-2)) - 1, rel=1e-6)


@pytest.mark.parametrize("tie", [False, True])
def test_bradley_terry_of_very_different_scores(tie):
    """Also in half precision, whose own differences would not tell 1e4 from 1e4 + 1."""
    chosen, rejected, tied = jnp.float32([1e4, -1e4]), jnp.zeros(2), np.full(2, tie)
    np.testing.assert_allclose(bradley_terry(chosen, rejected, tied), [5e3, 5e3] if tie else [0, 1e4], rtol=1e-6)
    slopes = jax.grad(lambda chosen: bradley_terry(chosen, rejected, tied).sum())(chosen)
    np.testing.assert_allclose(slopes, [0.5, -0.5] if tie else [0, -1], atol=1e-6)
    halves = bradley_terry(jnp.bfloat16([3.0]), jnp.bfloat16([0.01]), tied[:1])
    assert halves.dtype == jnp.float32
