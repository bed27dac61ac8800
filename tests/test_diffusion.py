"""The straight path: conversions, times, and samplers against a flow that is known in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.diffusion.guidance import guide
from narrative_jax.diffusion.path import (
    PREDICTION_TYPES,
    T_FLOOR,
    add_noise,
    from_velocity,
    to_velocity,
)
from narrative_jax.diffusion.samplers import sample
from narrative_jax.diffusion.timesteps import LogitNormal, flow_shift, sampler_grid

MEAN, STD = 0.7, 0.3


@pytest.fixture
def path():
    """Clean, noise, noisy f32[5, 2, 3, 4] and t f32[5] where every conversion is exact."""
    rng = np.random.default_rng(0)
    clean, noise = np.float32(rng.normal(size=(2, 5, 2, 3, 4)))
    t = np.float32([T_FLOOR, 0.2, 0.5, 0.9, 1 - T_FLOOR])
    return clean, noise, add_noise(clean, noise, t), t


def truth(prediction_type, clean, noise):
    return {"velocity": noise - clean, "clean": clean, "noise": noise}[prediction_type]


def exact_velocity(noisy, t):
    """E[noise - clean | noisy] where the data are N(MEAN, STD²): the regression of one Gaussian on another."""
    t = t[:, None]
    variance = (1 - t) ** 2 * STD**2 + t**2
    return -MEAN + (t - (1 - t) * STD**2) / variance * (noisy - (1 - t) * MEAN)


def test_noise_is_added_along_the_straight_path():
    noisy = add_noise(np.full((3, 2), 4.0), np.full((3, 2), 8.0), np.array([0.0, 0.25, 1.0]))
    np.testing.assert_allclose(noisy, [[4, 4], [5, 5], [8, 8]])
    assert noisy.dtype == jnp.float32


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_true_predictions_convert_to_the_truth(path, prediction_type):
    clean, noise, noisy, t = path
    given = truth(prediction_type, clean, noise)
    np.testing.assert_allclose(to_velocity(given, noisy, t, prediction_type), noise - clean, atol=2e-5)
    velocity = to_velocity(given, noisy, t, prediction_type)
    np.testing.assert_allclose(from_velocity(velocity, noisy, t, "clean"), clean, atol=2e-5)
    np.testing.assert_allclose(from_velocity(velocity, noisy, t, "noise"), noise, atol=2e-5)


@pytest.mark.parametrize("first, second", list(itertools.product(PREDICTION_TYPES, repeat=2)))
def test_predictions_round_trip(path, first, second):
    _, _, noisy, t = path
    prediction = np.float32(np.random.default_rng(1).normal(size=noisy.shape))
    other = from_velocity(to_velocity(prediction, noisy, t, first), noisy, t, second)
    back = from_velocity(to_velocity(other, noisy, t, second), noisy, t, first)
    np.testing.assert_allclose(back, prediction, atol=2e-5)


@pytest.mark.parametrize("prediction_type, t", [("clean", 0.0), ("noise", 1.0)])
def test_divisors_are_floored(prediction_type, t):
    prediction, noisy = np.full((1, 2), 3.0), np.full((1, 2), 1.0)
    velocity = to_velocity(prediction, noisy, np.array([t]), prediction_type)
    np.testing.assert_allclose(np.abs(velocity), 2 / T_FLOOR, rtol=1e-6)


def test_unknown_prediction_type():
    with pytest.raises(InputError, match="did you mean 'velocity'"):
        to_velocity(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros(1), "velocty")


def test_shift_is_that_of_flux():
    mu, n = 0.8, 12
    t = np.linspace(1, 1 / n, n)
    expected = [*(np.exp(mu) / (np.exp(mu) + (1 / t - 1))), 0.0]
    np.testing.assert_allclose(sampler_grid(n, shift=np.exp(mu)), expected, atol=1e-6)
    np.testing.assert_allclose(flow_shift(flow_shift(t, 3.0), 1 / 3.0), t)


def test_grid_falls_from_noise_to_data():
    for shift in (0.5, 1.0, 3.0):
        grid = np.asarray(sampler_grid(9, shift))
        assert grid.shape == (10,) and grid[0] == 1 and grid[-1] == 0 and (np.diff(grid) < 0).all()
    np.testing.assert_allclose(sampler_grid(4), [1, 0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize("num_steps, shift", [(0, 1.0), (2.5, 1.0), (4, 0.0), (4, float("nan"))])
def test_bad_grids(num_steps, shift):
    with pytest.raises(InputError, match="num_steps" if shift == 1 else "shift"):
        sampler_grid(num_steps, shift)


def test_times_have_their_moments():
    t = np.asarray(LogitNormal(0.5, 1.3).sample(jax.random.key(0), (200, 500)))
    logits = np.log(t / (1 - t))
    assert t.dtype == np.float32 and t.min() > 0 and t.max() < 1
    assert logits.mean() == pytest.approx(0.5, abs=0.02) and logits.std() == pytest.approx(1.3, abs=0.02)


@pytest.mark.parametrize("method, num_steps", [("euler", 200), ("heun", 40)])
def test_a_gaussian_is_sampled(method, num_steps):
    noise = jax.random.normal(jax.random.key(0), (20_000, 1))
    drawn = sample(exact_velocity, noise, sampler_grid(num_steps), method)
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(drawn.std()) == pytest.approx(STD, abs=0.01)


@pytest.mark.parametrize("method, order", [("euler", 1), ("heun", 2)])
def test_order_of_convergence(method, order):
    noise = np.linspace(-2, 2, 9, dtype=np.float32)[:, None]
    exact = MEAN + STD * noise  # the flow of a Gaussian keeps quantiles
    errors = [np.abs(sample(exact_velocity, noise, sampler_grid(n), method) - exact).max() for n in (16, 32, 64)]
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), order, atol=0.2)


def test_heun_asks_for_no_velocity_of_data():
    noise = jnp.ones((2, 1))
    asked = []

    def velocity(noisy, t):
        jax.debug.callback(lambda t: asked.append(float(t[0])), t)
        return jnp.zeros_like(noisy)

    jax.block_until_ready(sample(velocity, noise, sampler_grid(4), "heun"))
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(asked), [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0])


def test_the_sampler_traces_once():
    traces = {"sampler": 0, "velocity": 0}

    def velocity(noisy, t):
        traces["velocity"] += 1
        assert noisy.dtype == t.dtype == jnp.float32 and t.shape == (3,)
        return noisy.astype(jnp.bfloat16)  # what a network in half precision returns

    @jax.jit
    def draw(noise):
        traces["sampler"] += 1
        return sample(velocity, noise, sampler_grid(16))

    assert draw(jnp.ones((3, 2))).dtype == jnp.float32
    draw(jnp.zeros((3, 2)))
    assert traces == {"sampler": 1, "velocity": 1}


def test_unknown_sampler():
    with pytest.raises(InputError, match="did you mean 'euler'"):
        sample(exact_velocity, jnp.ones((1, 1)), sampler_grid(2), "eular")


# Gradients through chosen steps


def unrolled(weight, noise, method, followed, velocity):
    """`sample` written out on a grid, where steps that are not followed take the velocity as a constant."""
    noisy, times = noise, np.asarray(sampler_grid(len(followed)))
    for t, after, follow in zip(times[:-1], times[1:], followed, strict=True):
        hold = (lambda x: x) if follow else jax.lax.stop_gradient
        here, then = (jnp.full(len(noise), value, jnp.float32) for value in (t, after))
        slope = hold(velocity(weight, noisy, here))
        if method == "heun" and after > 0:
            slope = (slope + hold(velocity(weight, noisy + (after - t) * slope, then))) / 2
        noisy = noisy + (after - t) * slope
    return noisy


def curved(weight, noisy, t):
    """A velocity that depends on all that it is given, and on nothing linearly."""
    return jnp.sin(noisy * weight) * (1 + t[:, None]) - jnp.square(noisy) / 4


FOLLOWED = {"all": [1, 1, 1, 1], "first": [1, 0, 0, 0], "third": [0, 0, 1, 0], "last": [0, 0, 0, 1], "none": [0] * 4}


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("name", FOLLOWED)
def test_gradients_pass_the_followed_steps_alone(name, method):
    rng, followed = np.random.default_rng(0), np.array(FOLLOWED[name], bool)
    noise, weight = jnp.float32(rng.normal(size=(3, 2))), jnp.float32([0.7, -1.3])

    def end(weight, noise, followed):
        return jnp.cos(sample(lambda x, t: curved(weight, x, t), noise, sampler_grid(4), method, followed)).sum()

    def expected(weight, noise):
        return jnp.cos(unrolled(weight, noise, method, followed, curved)).sum()

    # Which steps are followed is data: one compiled program serves every choice.
    value, found = jax.jit(jax.value_and_grad(end, argnums=(0, 1)))(weight, noise, followed)
    assert float(value) == pytest.approx(float(end(weight, noise, None)), rel=1e-6)
    for ours, theirs in zip(found, jax.grad(expected, argnums=(0, 1))(weight, noise), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert bool(np.any(found[0])) == followed.any(), "the weights are felt by followed steps only"
    assert np.all(found[1]), "noise passes a step that is not followed as it is"


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_all_steps_followed_are_the_derivative(method):
    """As finite differences in float64 have it, and as differentiation without `followed` has it."""
    noise, weight = np.random.default_rng(0).normal(size=(3, 2)), np.float64([0.7, -1.3])

    def end(weight, followed=None):
        return sample(lambda x, t: curved(weight, x, t), noise, sampler_grid(4), method, followed).sum()

    def exact(weight):
        with jax.enable_x64(True):
            return unrolled(jnp.asarray(weight), jnp.asarray(noise), method, [1] * 4, curved).sum()

    steps = 1e-5 * np.eye(2)
    differences = [float(exact(weight + step) - exact(weight - step)) / 2e-5 for step in steps]
    for followed in (None, np.ones(4, bool)):
        np.testing.assert_allclose(jax.grad(end)(jnp.float32(weight), followed), differences, rtol=1e-4)


def test_followed_steps_are_worked_out_again():
    """What is kept of each step for the way back is where it began, neither what the network held nor its weights."""

    def end(weight, followed):
        def velocity(noisy, t):
            return jnp.tanh(noisy @ weight) @ weight.T  # 2 numbers a row outside, 64 inside

        return sample(velocity, jnp.ones((3, 2)), sampler_grid(16), "euler", followed).sum()

    def kept(followed):
        """The most numbers that a loop of the gradient leaves for each of its steps."""
        gradient = jax.make_jaxpr(jax.grad(end))(jnp.ones((2, 64)), followed)
        loops = [equation for equation in gradient.eqns if equation.primitive.name == "scan"]
        shapes = [out.aval.shape for loop in loops for out in loop.outvars]
        return max(np.prod(shape[1:]) for shape in shapes if shape[:1] == (16,))

    assert kept(None) == 3 * 64
    assert kept(np.ones(16, bool)) == 3 * 2


# Guidance


def test_guidance():
    conditional, unconditional = np.random.default_rng(0).normal(size=(2, 3, 4))
    both = conditional, unconditional
    np.testing.assert_array_equal(guide(both, [1.0]), conditional)
    np.testing.assert_allclose(guide(both, [0.0]), unconditional)
    np.testing.assert_allclose(guide(both, [3.5]), unconditional + 3.5 * (conditional - unconditional))
    np.testing.assert_array_equal(guide([conditional], []), conditional)


def test_guidance_by_two_things():
    """InstructPix2Pix' (Brooks et al. 2023, eq. 3), with scales of the text and of the subjects."""
    every, textless, bare = np.random.default_rng(0).normal(size=(3, 2, 4))
    expected = bare + 1.6 * (textless - bare) + 7.5 * (every - textless)
    np.testing.assert_allclose(guide([every, textless, bare], [7.5, 1.6]), expected)
    np.testing.assert_array_equal(guide([every, textless, bare], [1.0, 1.0]), every)
    np.testing.assert_allclose(guide([every, textless, bare], [0.0, 1.0]), textless)
    np.testing.assert_allclose(guide([every, textless, bare], [0.0, 0.0]), bare)
