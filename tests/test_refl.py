"""ReFL: the gradient of what it says it follows, what it holds, and what it refuses."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_rewards import small_aesthetic, small_clip

from narrative_jax.algorithms.base import Models, Role
from narrative_jax.algorithms.refl import _TERM, ReFL
from narrative_jax.algorithms.sft import SFT
from narrative_jax.core.errors import InputError
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.diffusion.path import add_noise, to_clean
from narrative_jax.generators.rollout import branches_of, guided_prediction, rollout
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.rewards.clip_scores import ClipCosine
from narrative_jax.rewards.ensemble import Ensemble, Term
from narrative_jax.training.step import gradients

ADAPTER = {"rank": 2, "alpha": 2.0, "targets": r".*\.(to_q|to_v|out|mlp_out)", "segments": ("noisy", "text"), "seed": 0}
ROWS = 4
KEY = jax.random.key(3)
GUIDED = {"guidance_scale": 2.0, "subject_guidance_scale": 1.5}


def calibrated(reward, weight, clip=None):
    return Term(reward, Calibration(reward.name, reward.aspects, (0.1,), (0.2,), "x"), weight, clip)


@pytest.fixture(scope="module")
def models(tiny_generator, random_weights):
    """A policy whose adapter changes pictures, its base, an ensemble of two small networks, and a batch for them."""
    base, weights = tiny_generator
    base = replace(base, config=replace(base.config, subject_guidance=True))
    policy, weights = base.with_adapter(weights, "align", **ADAPTER)
    rng = np.random.default_rng(0)
    weights = {
        name: np.float32(rng.normal(size=value.shape) * 0.1) if name.endswith(".b") else np.asarray(value)
        for name, value in weights.items()
    }
    ensemble = Ensemble(
        {
            "text": calibrated(ClipCosine(small_clip(random_weights)), 0.5),
            "looks": calibrated(small_aesthetic(random_weights), 0.25),
        }
    )
    scenes = storybook_scenes("train", ROWS, 0)
    batch = {
        "conditioning": policy.encode(weights, scenes),
        "context": ensemble.encode(scenes),
        "latents": np.float32(rng.normal(size=(ROWS, *base.latent_shape))),
    }
    params = {name: value for name, value in weights.items() if ".adapters." in name}
    frozen = {name: value for name, value in weights.items() if name not in params}

    def roles(params, frozen, reward=ensemble):
        return Models(Role(policy, {**frozen, **params}), Role(base, frozen), Role(reward, reward.params))

    return SimpleNamespace(base=base, ensemble=ensemble, params=params, frozen=frozen, roles=roles, batch=batch)


def learned(models, algorithm, accumulate=1, key=KEY, **changes):
    """Gradient and metrics of a step."""
    trainee = SimpleNamespace(models=partial(models.roles, **changes))
    run = jax.jit(partial(gradients, algorithm, trainee, accumulate=accumulate))
    return run(models.params, models.frozen, models.batch, key)


def far_from_nothing(tree):
    return max(np.abs(value).max() for value in jax.tree.leaves(tree)) > 1e-6


def close(found, expected, tolerance=1e-5):
    """Over the whole tree."""
    scale = max(np.abs(value).max() for value in jax.tree.leaves(expected))
    assert scale > 1e-7
    apart = jax.tree.map(lambda x, y: np.abs(x - y).max(), dict(found), dict(expected))
    assert max(jax.tree.leaves(apart)) <= tolerance * scale


def by_hand(models, algorithm, draw):
    """The gradient of the mean of -R, R of what `draw` makes, with a batch's statistics taken once."""
    ensemble = models.ensemble

    def reward(params, context=None):
        policy, weights = models.roles(params, models.frozen).policy
        latents, copies = draw(policy, weights)
        images = policy.decode(weights, latents)
        images = images + jax.lax.stop_gradient(images.clip(-1, 1) - images)
        asked = jax.tree.map(lambda x: jnp.repeat(x, copies, 0), models.batch["context"])
        if context is None:
            return ensemble.with_statistics(asked, ensemble.pulls(ensemble.params, images, asked).rewards)
        return -algorithm.reward_weight * ensemble.score(ensemble.params, images, context).mean()

    return jax.jit(jax.grad(reward))(models.params, jax.jit(reward)(models.params))


def noise_of(models, algorithm):
    """What an algorithm begins with, and the step that it draws: all that a test cannot know."""
    batch = {**models.batch, "index": jnp.arange(ROWS)}
    roles = models.roles(models.params, models.frozen)
    whole = replace(algorithm, window=(0, 1), followed=1, low_variance=0)
    noise = jax.jit(lambda: whole.experience(roles, batch, KEY)["start"])()
    return noise[:, 0], int(algorithm._stop(KEY))


@pytest.mark.parametrize("through", ["all", "first"])
@pytest.mark.slow
def test_the_gradient_of_one_step(models, through):
    """As of the rollout written down, and differentiated as it stands."""
    algorithm = ReFL(num_steps=4, window=(2, 4), through=through, reward_weight=3.0, **GUIDED)
    noise, stop = noise_of(models, algorithm)
    assert 2 <= stop < 4

    def draw(policy, weights):
        branches, times = branches_of(*GUIDED.values(), True), policy.sampler_times(4)
        still = jax.lax.stop_gradient(weights)
        noisy = rollout(policy, still, models.batch["conditioning"], noise, times[: stop + 1], branches)
        predict = guided_prediction(policy, weights, models.batch["conditioning"], branches, through)
        t = jnp.full(ROWS, times[stop])
        return to_clean(predict(noisy, t), noisy, t, policy.prediction_type), 1

    found, metrics = learned(models, algorithm)
    close(found, by_hand(models, algorithm, draw))
    assert abs(metrics["loss"]) < 1e-5 and metrics["t"] == 1 - stop / 4, "z-scores are 0 on the mean"
    rewards = [metrics[f"reward/{name}"] for name in ("text", "looks")]
    assert np.isfinite(rewards).all() and len(set(map(float, rewards))) == 2
    assert metrics["pull/text"] > 0 and metrics["pull/looks"] > 0


@pytest.mark.slow
def test_both_ways_through_guidance_differ(models):
    algorithm = ReFL(num_steps=4, window=(2, 3), **GUIDED)
    both, first = (learned(models, replace(algorithm, through=name))[0] for name in ("all", "first"))
    assert far_from_nothing(jax.tree.map(lambda x, y: x - y, both, first))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2])
def test_draft_k_is_the_end_of_a_rollout(models, steps):
    """K steps from the last K on: what `rollout` gives where those are followed."""
    algorithm = ReFL(num_steps=4, window=(4 - steps, 5 - steps), followed=steps, **GUIDED)
    noise, _ = noise_of(models, algorithm)

    def draw(policy, weights):
        branches, followed = branches_of(*GUIDED.values(), True), jnp.arange(4) >= 4 - steps
        times, asked = policy.sampler_times(4), models.batch["conditioning"]
        return rollout(policy, weights, asked, noise, times, branches, followed=followed), 1

    found, metrics = learned(models, algorithm)
    assert metrics["t"] == 1 - 3 / 4, "of the picture that is judged"
    # Where a rollout follows steps, prepared subjects carry a gradient of the others too: none here acts on them.
    close(found, by_hand(models, algorithm, draw), 2e-5)


@pytest.mark.slow
def test_draft_lv_is_a_mean_over_noisy_copies(models):
    algorithm = ReFL(num_steps=4, window=(3, 4), low_variance=3, **GUIDED)
    batch = {**models.batch, "index": jnp.arange(ROWS)}
    roles = models.roles(models.params, models.frozen)
    start = jax.jit(lambda: algorithm.experience(roles, batch, KEY)["start"])()
    assert start.shape == (ROWS, 3, *models.base.latent_shape)
    noise, stop = noise_of(models, algorithm)
    branches, times = branches_of(*GUIDED.values(), True), models.base.sampler_times(4)
    drawn = rollout(*roles.policy, models.batch["conditioning"], noise, times, branches)
    left = (start - (1 - times[stop]) * drawn[:, None]) / times[stop]
    assert np.abs(np.std(left) - 1) < 0.05 and np.abs(np.corrcoef(left[:, 0].ravel(), left[:, 1].ravel())[0, 1]) < 0.05

    def draw(policy, weights):
        asked = jax.tree.map(lambda x: jnp.repeat(x, 3, 0), models.batch["conditioning"])
        noisy = add_noise(jnp.repeat(drawn, 3, 0), left.reshape(-1, *left.shape[2:]), jnp.full(3 * ROWS, times[stop]))
        t = jnp.full(3 * ROWS, times[stop])
        predict = guided_prediction(policy, weights, asked, branches)
        return to_clean(predict(noisy, t), noisy, t, policy.prediction_type), 3

    close(learned(models, algorithm)[0], by_hand(models, algorithm, draw))


@pytest.mark.slow
def test_parts_add_up(models):
    """Whatever is done one after the other: the reward's part, the gradient's."""
    algorithm = ReFL(num_steps=3, window=(1, 3), flow_matching=0.5, penalty=0.1)
    whole, numbers = learned(models, algorithm)
    for found, metrics in (learned(models, replace(algorithm, parts=2)), learned(models, algorithm, accumulate=2)):
        close(found, whole)
        close(metrics, numbers)


@pytest.mark.slow
def test_the_term_on_examples_is_sft(models):
    algorithm = ReFL(num_steps=3, window=(1, 3), flow_matching=0.5)
    assert algorithm.batch == "examples" and ReFL().batch == "scenes"
    with_it, metrics = learned(models, algorithm)
    without, _ = learned(models, replace(algorithm, flow_matching=0.0))
    trained, errors = learned(models, replace(algorithm, reward_weight=0.0))
    close(jax.tree.map(lambda x, y: x - y, with_it, without), trained, 1e-4)
    np.testing.assert_allclose(errors["loss"], 0.5 * metrics["error"], rtol=1e-5)
    alone, errors = learned(models, SFT(), key=jax.random.fold_in(KEY, _TERM))
    np.testing.assert_allclose(errors["error"], metrics["error"], rtol=1e-5)
    close(trained, jax.tree.map(lambda x: 0.5 * x, alone))


@pytest.mark.slow
def test_the_penalty_is_the_distance_to_the_reference(models):
    algorithm = ReFL(num_steps=3, window=(2, 3), penalty=1.0)
    assert "reference" in algorithm.roles and "reference" not in ReFL().roles
    assert learned(models, algorithm)[1]["distance"] > 1e-6
    params = {name: value * (0 if name.endswith(".b") else 1) for name, value in models.params.items()}
    found, metrics = learned(SimpleNamespace(**{**vars(models), "params": params}), algorithm)
    assert metrics["distance"] < 1e-9
    assert all(np.isfinite(value).all() for value in found.values())


@pytest.mark.slow
def test_a_reward_alone_is_followed_as_it_is(models, random_weights):
    alone = small_aesthetic(random_weights)
    context = alone.encode(storybook_scenes("train", ROWS, 0))
    given = SimpleNamespace(**{**vars(models), "batch": {**models.batch, "context": context}})
    found, metrics = learned(given, ReFL(num_steps=2, window=(1, 2), statistics="raw"), reward=alone)
    assert far_from_nothing(found)
    np.testing.assert_allclose(metrics["loss"], -metrics["reward"], rtol=1e-6)
    np.testing.assert_allclose(metrics["reward"], metrics[f"reward/{alone.name}"], rtol=1e-6)


@pytest.mark.parametrize(("statistics", "mean", "deviation"), [("raw", 0.0, 1.0), ("calibration", 0.1, 0.2)])
@pytest.mark.slow
def test_what_terms_are_measured_against(models, statistics, mean, deviation):
    _, metrics = learned(models, ReFL(num_steps=2, window=(1, 2), statistics=statistics))
    expected = sum(w * (metrics[f"reward/{n}"] - mean) / deviation for n, w in {"text": 0.5, "looks": 0.25}.items())
    np.testing.assert_allclose(metrics["reward"], expected, rtol=1e-4)


@pytest.mark.slow
def test_a_term_is_clipped(models):
    """The pull that is reported is the term's own, what is learned is not."""
    clipped = Ensemble({name: replace_clip(term, 1e-4) for name, term in models.ensemble.terms.items()})
    algorithm = ReFL(num_steps=2, window=(1, 2))
    free, least = learned(models, algorithm), learned(models, algorithm, reward=clipped)
    np.testing.assert_allclose(least[1]["pull/text"], free[1]["pull/text"], rtol=1e-5)
    assert free[1]["pull/text"] > 1e-4
    assert optax_norm(least[0]) < 0.9 * optax_norm(free[0])


def replace_clip(term, clip):
    return term._replace(clip=clip)


def optax_norm(tree):
    return np.sqrt(sum(np.square(value).sum() for value in tree.values()))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rollout(models):
    """The compiler's temporaries of a step at 4, 8 and 28 steps of drawing."""
    trainee, used = SimpleNamespace(models=models.roles), []
    for steps in (4, 8, 28):
        run = partial(gradients, ReFL(num_steps=steps, window=(steps - 2, steps), **GUIDED), trainee)
        compiled = jax.jit(run).lower(models.params, models.frozen, models.batch, KEY).compile()
        used.append(compiled.memory_analysis().temp_size_in_bytes)
    assert max(used) <= 1.05 * min(used), used


BAD = {
    "window": ({"window": (4, 9)}, r"window \(4, 9\): it is a first step and one past the last, of the sampler's 8"),
    "empty": ({"window": (4, 4)}, r"window \(4, 4\)"),
    "followed": ({"followed": 2}, r"followed 2: from step 7, the window's last, only 1 are left; lower it"),
    "copies": ({"low_variance": 2, "followed": 2, "window": (6, 7)}, "low_variance 2: .*set followed to 1"),
    "through": ({"through": "both"}, "through 'both'"),
    "statistics": ({"statistics": "none"}, "statistics 'none'"),
    "weight": ({"flow_matching": -1.0}, "flow_matching -1.0: it is a number ≥ 0"),
    "scale": ({"guidance_scale": float("nan")}, "guidance_scale nan"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values(name):
    values, message = BAD[name]
    with pytest.raises(InputError, match=message):
        ReFL(**values)


def test_models_that_it_cannot_train_with(models, random_weights):
    alone = small_aesthetic(random_weights)
    with pytest.raises(
        InputError, match=f"statistics 'batch' of reward '{alone.name}': it is no ensemble.*set it to 'raw'"
    ):
        ReFL().check_models(models.base, alone)
    several = SimpleNamespace(name="judge", aspects=("a", "b"))
    with pytest.raises(InputError, match="reward 'judge': it has the aspects a, b, and a loss follows one number"):
        ReFL().check_models(models.base, several)
    unable = SimpleNamespace(subject_guidance=False)
    with pytest.raises(InputError, match=r"subject_guidance_scale 1\.5: this generator was not trained"):
        ReFL(**GUIDED).check_models(unable, models.ensemble)
