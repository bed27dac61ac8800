"""From noise to latents: what a generator prepares and leaves out, guided steps, and gradients through some of them."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from narrative_jax.core.records import Scene, Subject
from narrative_jax.diffusion.path import to_velocity
from narrative_jax.generators.flow import TRANSFORMER
from narrative_jax.generators.flow_presets import TINY_FLOW
from narrative_jax.generators.rollout import Branch, guided_velocity, rollout
from narrative_jax.models.flow_transformer import FlowTransformer
from narrative_jax.models.network import abstract, under

RNG = np.random.default_rng(0)
PORTRAITS = [Subject(f"s{i}", "character", RNG.integers(0, 256, (1, 24, 24, 3), np.uint8)) for i in range(3)]
ONE = Scene("one", "Uma walks by the castle, in crayon.", PORTRAITS[:1], "test")
TWO = Scene("two", "In the forest, Sem walks while Kim waves, in gouache.", PORTRAITS[1:], "test")
NOISE = np.float32(RNG.normal(size=(2, 25, 192)))
WHERE = {"first": np.array([True, False]), "both": np.array([True, True])}


def encoded(generator, params):
    """What two scenes ask for."""
    return jax.tree.map(np.asarray, generator.encode(params, [ONE, TWO]))


@pytest.fixture(scope="module", params=["independent", "dependent"])
def asked(request, tiny_generator, random_weights):
    """A generator whose subjects see themselves alone, or the picture too; its weights, and what two scenes ask for."""
    generator, params = tiny_generator
    conditioning = encoded(generator, params)
    if request.param == "independent":
        return generator, params, conditioning
    config = replace(TINY_FLOW, transformer=replace(TINY_FLOW.transformer, independent_subjects=False))
    network, shapes = abstract(lambda: FlowTransformer(config.transformer, rngs=nnx.Rngs(0)))
    return replace(generator, config=config, network=network), under(TRANSFORMER, random_weights(shapes)), conditioning


@pytest.fixture(scope="module")
def denoise(asked):
    """denoise(noisy, t, conditioning, prepared=None), compiled."""
    generator, params, _ = asked
    run = jax.jit(generator.denoise)

    def call(noisy, t, conditioning, prepared=None):
        return np.asarray(run(params, np.float32(noisy), np.float32(t), conditioning, prepared))

    return call


def close(found, expected, tolerance=1e-5):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def far(left, right):
    return np.abs(left - right).max() > 1e-2 * np.abs(right).max()


# What a generator prepares, repeats and leaves out


def test_subjects_are_prepared_unless_they_see_the_picture(asked, denoise):
    generator, params, conditioning = asked
    prepared = jax.jit(generator.prepare)(params, conditioning)
    if not generator.config.transformer.independent_subjects:
        assert prepared is None
        return
    assert [part.shape for part in jax.tree.leaves(prepared)] == [(1, 2, 18, 2, 16)] * 4  # keys, values of two blocks
    # What was prepared is what is looked at: the tokens themselves no longer matter.
    without_tokens = conditioning._replace(subjects=np.zeros_like(conditioning.subjects))
    found = denoise(NOISE, [0.5, 0.2], conditioning, prepared)
    np.testing.assert_array_equal(denoise(NOISE, [0.5, 0.2], without_tokens, prepared), found)
    close(found, denoise(NOISE, [0.5, 0.2], conditioning))
    assert far(denoise(NOISE, [0.5, 0.2], without_tokens), found)


@pytest.mark.parametrize("is_prepared", [True, False])
@pytest.mark.slow
def test_copies_equal_separate_calls(asked, denoise, is_prepared):
    """Rows are the conditioning's, each three times over, each time with noise and time of its own."""
    generator, params, conditioning = asked
    prepared = jax.jit(generator.prepare)(params, conditioning) if is_prepared else None
    rng = np.random.default_rng(1)
    noisy, t = rng.normal(size=(2, 3, 25, 192)), rng.random((2, 3))
    together = denoise(noisy.reshape(6, 25, 192), t.reshape(6), conditioning, prepared)
    apart = [denoise(noisy[:, i], t[:, i], conditioning, prepared) for i in range(3)]
    close(together, np.stack(apart, 1).reshape(6, 25, 192))
    assert far(apart[1], apart[0])


@pytest.mark.parametrize("where", WHERE)
def test_without_subjects(asked, denoise, where):
    """As scenes that have none: their slots are masked, whatever is in them."""
    generator, _, conditioning = asked
    drop = WHERE[where]
    dropped = jax.jit(lambda asked, drop: generator.drop(asked, subjects=drop))(conditioning, drop)
    assert not dropped.subject_mask[drop].any()
    for name in ("text", "pooled", "subjects"):
        np.testing.assert_array_equal(getattr(dropped, name), getattr(conditioning, name))
    nobody = conditioning._replace(
        subjects=np.where(drop[:, None, None, None], -7, conditioning.subjects),
        subject_mask=conditioning.subject_mask & ~drop[:, None],
    )
    found, whole = (denoise(NOISE, [0.5, 0.2], each) for each in (dropped, conditioning))
    close(found, denoise(NOISE, [0.5, 0.2], nobody))
    close(found[~drop], whole[~drop]) if not drop.all() else None
    assert far(found[drop], whole[drop])


def test_without_both(asked, denoise):
    generator, _, conditioning = asked
    both = jnp.array([True, True])
    at_once = generator.drop(conditioning, text=both, subjects=both)
    in_turn = generator.drop(generator.drop(conditioning, subjects=both), text=both)
    jax.tree.map(np.testing.assert_array_equal, at_once, in_turn)
    assert far(denoise(NOISE, [0.5, 0.2], at_once), denoise(NOISE, [0.5, 0.2], conditioning))


# Guided steps

GUIDED = {
    "plain": [],
    "text": [Branch(2.5, text=True)],
    "both": [Branch(4.0, text=True), Branch(1.7, text=True, subjects=True)],
    "off": [Branch(1.0, text=True), Branch(1.0, subjects=True)],
}


def by_hand(generator, denoise, conditioning, noisy, t, branches):
    """The guided velocity from predictions one by one."""
    everywhere, found = jnp.array([True, True]), []
    for branch in [Branch(1.0), *branches]:
        dropped = {kind: everywhere for kind in ("text", "subjects") if getattr(branch, kind)}
        prediction = denoise(noisy, t, generator.drop(conditioning, **dropped))
        found.append(np.asarray(to_velocity(prediction, noisy, np.float32(t), generator.prediction_type)))
    guided = found[0]
    for branch, fuller, emptier in zip(branches, found[:-1], found[1:], strict=True):
        guided = guided + (branch.scale - 1) * (fuller - emptier)
    return guided


@pytest.mark.parametrize("branches", GUIDED.values(), ids=GUIDED)
def test_guided_velocity(asked, denoise, branches):
    generator, params, conditioning = asked
    velocity = jax.jit(lambda noisy, t: guided_velocity(generator, params, conditioning, branches)(noisy, t))
    found, t = velocity(NOISE, np.float32([0.9, 0.4])), [0.9, 0.4]
    close(found, by_hand(generator, denoise, conditioning, NOISE, t, branches), 1e-4)
    plain = by_hand(generator, denoise, conditioning, NOISE, t, [])
    assert far(found, plain) == any(branch.scale != 1 for branch in branches)


def test_each_branch_has_its_place(asked, denoise):
    """Subjects dropped first is another guidance than text dropped first."""
    generator, _, conditioning = asked
    one, other = (
        by_hand(generator, denoise, conditioning, NOISE, [0.9, 0.4], [Branch(4.0, **{kind: True}), GUIDED["both"][1]])
        for kind in ("text", "subjects")
    )
    assert far(one, other)


def test_a_rollout_walks_along_the_guided_velocity(asked, denoise):
    generator, params, conditioning = asked
    times, branches = np.float32([1, 0.6, 0.3, 0]), GUIDED["both"]
    found = jax.jit(lambda noise: rollout(generator, params, conditioning, noise, times, branches))(NOISE)
    noisy = NOISE
    for t, after in pairwise(times):
        noisy = noisy + (after - t) * by_hand(generator, denoise, conditioning, noisy, [t, t], branches)
    close(found, noisy, 1e-4)


class Counting:
    """A generator that predicts velocity, and counts how often it is asked; its weights are one number."""

    prediction_type = "velocity"

    def __init__(self):
        self.prepared = self.denoised = 0

    def drop(self, conditioning, *, text=None, subjects=None):
        return conditioning * (0 if text is not None else 1)

    def prepare(self, params, conditioning):
        self.prepared += 1
        return params * conditioning

    def denoise(self, params, noisy, t, conditioning, prepared):
        self.denoised += 1
        return prepared[:, None] - noisy * t[:, None]


def test_what_does_not_change_is_worked_out_once():
    generator, conditioning = Counting(), jnp.float32([1, 2])
    noise = jnp.ones((2, 3))
    rollout(generator, jnp.float32(0.5), conditioning, noise, np.linspace(1, 0, 9), [Branch(3.0, text=True)], "heun")
    assert generator.prepared == 1
    assert generator.denoised == 2, "traced for both ends of one step, all branches in one batch"


# Gradients through chosen steps

TIMES = np.float32([1, 0.6, 0])
FOLLOWED = {"all": [1, 1], "first": [1, 0], "last": [0, 1], "none": [0, 0]}


@pytest.fixture(scope="module")
def adapted(tiny_generator):
    """A generator with an adapter, its weights that train, those that do not, and what two scenes ask for."""
    generator, params = tiny_generator
    made_with = {"rank": 2, "alpha": 2.0, "targets": r".*(to_[qv]|mlp_in)", "segments": ("noisy", "text"), "seed": 0}
    policy, weights = generator.with_adapter(params, "align", **made_with)
    rng = np.random.default_rng(3)
    trained = {name: np.float32(0.3 * rng.normal(size=w.shape)) for name, w in weights.items() if name not in params}
    return policy, trained, params, encoded(generator, params)


@pytest.fixture(scope="module", params=["euler", "heun"])
def gradients(request, adapted):
    """gradients(followed) of a number of the rolled-out latents: as the package has it, and unrolled by hand."""
    generator, trained, frozen, conditioning = adapted
    branches, target = GUIDED["text"], np.float32(np.random.default_rng(4).normal(size=NOISE.shape))

    def ours(trained, noise, followed):
        params = {**frozen, **trained}
        latents = rollout(generator, params, conditioning, noise, TIMES, branches, request.param, followed)
        return (target * latents).sum()

    def unrolled(trained, noise, followed):
        velocity, noisy = guided_velocity(generator, {**frozen, **trained}, conditioning, branches), noise
        for t, after, follow in zip(TIMES[:-1], TIMES[1:], followed, strict=True):
            begin, slopes = jnp.where(follow, noisy, jax.lax.stop_gradient(noisy)), []
            slopes.append(velocity(begin, jnp.full(2, t)))
            if request.param == "heun" and after > 0:
                slopes.append(velocity(begin + (after - t) * slopes[0], jnp.full(2, after)))
            slope = sum(slopes) / len(slopes)
            noisy = noisy + (after - t) * jnp.where(follow, slope, jax.lax.stop_gradient(slope))
        return (target * noisy).sum()

    runs = [jax.jit(jax.grad(each, argnums=(0, 1))) for each in (ours, unrolled)]
    return lambda followed: [run(trained, NOISE, np.array(followed, bool)) for run in runs]


@pytest.mark.slow
def test_gradients_pass_the_followed_steps_alone(gradients):
    found = {}
    for name, followed in FOLLOWED.items():
        ours, expected = gradients(followed)
        for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-4 * max(np.abs(theirs).max(), 1e-3))
        found[name] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(ours[0])])
        assert np.all(ours[1]), "noise passes a step that is not followed as it is"
    assert not found["none"].any(), "no weight is felt"
    norms = {name: np.linalg.norm(value) for name, value in found.items()}
    assert min(norms[name] for name in ("all", "first", "last")) > 1e-3
    assert np.linalg.norm(found["first"] - found["all"]) > 1e-2 * norms["all"]
