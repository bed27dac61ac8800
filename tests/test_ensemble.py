"""Rewards made of rewards: z-scores, statistics of a batch, clipped gradients, calibration on disk."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_rewards import pictures, scenes

from narrative_jax.core.errors import InputError
from narrative_jax.core.mesh import make_mesh
from narrative_jax.rewards.base import ASPECTS, FitsAndJudges, OnHost, check_differentiable
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.rewards.ensemble import Ensemble, PerAspect, Term, per_aspect


@dataclass(frozen=True)
class Channel(FitsAndJudges):
    """scale · (mean of squares of one colour) + the number of the scene's subjects."""

    name: str
    channel: int
    scale: float = 1.0
    differentiable: bool = True
    needs_facts: bool = False
    least_size = (1, 1)
    axes = {"scale": ()}  # noqa: RUF012 (a constant of the test)
    extra: Any = ()

    @property
    def aspects(self):
        return (self.name, *self.extra)

    @property
    def params(self):
        return {"scale": jnp.float32(self.scale)}

    def encode(self, scenes):
        return np.float32([len(scene.subjects) for scene in scenes])

    def fit(self, images, context):
        return images[..., self.channel]

    def judge(self, params, fitted, context, critiques=None):
        return (params["scale"] * jnp.square(fitted).mean((1, 2)) + context)[:, None]


RED, GREEN, BLUE = Channel("red", 0), Channel("green", 1, 3.0), Channel("blue", 2, 5.0)
ASKED = scenes(1, 2, 1, 3)
MAX_NORM = 0.1


def calibration(reward, mean=0.5, std=0.2):
    return Calibration(reward.name, reward.aspects, (mean,), (std,), "tune scenes")


def term(reward, weight, clip=None, **stated):
    return Term(reward, calibration(reward, **stated), weight, clip)


@pytest.fixture
def ensemble():
    return Ensemble(
        {"text": term(RED, 0.2, mean=1.5, std=0.5), "subject": term(GREEN, 0.4, MAX_NORM, mean=2.0, std=1.5)}
    )


@pytest.fixture(scope="module")
def images():
    return pictures(len(ASKED), 5, 6)


def by_hand(images):
    """The raw rewards of RED and GREEN f64[b, 2]."""
    squares = np.square(np.float64(images)).mean((1, 2))
    counts = np.array([len(scene.subjects) for scene in ASKED])
    return np.stack([squares[:, 0] + counts, 3 * squares[:, 1] + counts], 1)


def test_a_score_is_the_weighted_sum_of_calibrated_terms(ensemble, images):
    raw = by_hand(images)
    expected = 0.2 * (raw[:, 0] - 1.5) / 0.5 + 0.4 * (raw[:, 1] - 2.0) / 1.5
    scores = ensemble.score(ensemble.params, images, ensemble.encode(ASKED))
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-4)
    drawn = np.uint8(np.round((images + 1) * 127.5))
    on_host = OnHost(ensemble, 3, make_mesh({"data": -1})).score_images(drawn, ASKED, None)
    np.testing.assert_allclose(on_host, scores, atol=0.05)


def test_statistics_of_a_batch_serve_its_parts(ensemble, images):
    context, params = ensemble.encode(ASKED), ensemble.params
    raw = ensemble.pulls(params, images, context).rewards
    np.testing.assert_allclose(raw, by_hand(images), rtol=1e-5)
    context = ensemble.with_statistics(context, raw)
    scores = ensemble.score(params, images, context)
    standard = (by_hand(images) - by_hand(images).mean(0)) / by_hand(images).std(0)
    np.testing.assert_allclose(scores[:, 0], standard @ [0.2, 0.4], atol=1e-4)
    parts = [
        ensemble.score(params, images[i : i + 1], jax.tree.map(lambda x, i=i: x[i : i + 1], context)) for i in range(4)
    ]
    np.testing.assert_allclose(np.concatenate(parts), scores, atol=1e-5)
    as_it_is = ensemble.score(params, images, ensemble.without_statistics(context))
    np.testing.assert_allclose(as_it_is[:, 0], by_hand(images) @ [0.2, 0.4], rtol=1e-5)


def test_the_pull_of_a_term_is_clipped_before_weight_and_deviation(ensemble, images):
    images = images * np.float32([0.1, 1, 1, 0.3])[:, None, None, None]
    context, params = ensemble.encode(ASKED), ensemble.params
    pulls = ensemble.pulls(params, images, context)
    context = ensemble.with_statistics(context, pulls.rewards)
    value, pull = ensemble.combined(pulls, context)
    np.testing.assert_allclose(value, ensemble.score(params, images, context)[:, 0], atol=1e-5)

    raw = 2 * np.float64(images) / 30  # of red; 3 times it of green
    green = 3 * raw[..., 1]
    norms = np.linalg.norm(green.reshape(4, -1), axis=1)
    assert norms.min() < MAX_NORM < norms.max()
    deviation = by_hand(images).std(0)
    np.testing.assert_allclose(pull[..., 0], 0.2 / deviation[0] * raw[..., 0], rtol=1e-3, atol=1e-7)
    clipped = green * np.minimum(1, MAX_NORM / norms)[:, None, None]
    np.testing.assert_allclose(pull[..., 1], 0.4 / deviation[1] * clipped, rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(pull[..., 2], 0)


def test_what_is_not_clipped_is_the_gradient_of_the_score(images):
    free = Ensemble({"red": term(RED, 0.2), "blue": term(BLUE, -0.3)})
    context, params = free.encode(ASKED), free.params
    slope = jax.grad(lambda x: free.score(params, x, context).sum())(images)
    np.testing.assert_allclose(free.combined(free.pulls(params, images, context), context)[1], slope, rtol=1e-5)


def test_a_constant_term_is_said_once_and_stays_finite(capsys):
    still = Ensemble({"red": term(RED, 1.0), "green": term(GREEN, 1.0, 0.1)})
    images = np.zeros((4, 5, 6, 3), np.float32)
    images[..., 0] = 0.1 * np.arange(4)[:, None, None]
    same = scenes(1, 1, 1, 1)
    for _ in range(2):
        context = still.encode(same)
        context = jax.jit(still.with_statistics)(context, still.pulls(still.params, images, context).rewards)
        jax.effects_barrier()
    told = capsys.readouterr().err
    assert told == "ensemble: term 'green' is the same for every picture of a batch: it cannot guide\n"
    np.testing.assert_allclose(context.deviation[:, 1], 0.1 * 0.2, rtol=1e-6)
    slope = still.combined(still.pulls(still.params, images, context), context)[1]
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_bad_ensembles():
    with pytest.raises(InputError, match=r"weights red 0.5, green -0.5: .*do not sum to zero"):
        Ensemble({"red": term(RED, 0.5), "green": term(GREEN, -0.5)})
    with pytest.raises(InputError, match="weights none"):
        Ensemble({})
    with pytest.raises(InputError, match="weights red nan"):
        Ensemble({"red": term(RED, float("nan"))})
    with pytest.raises(InputError, match="clip 0 of red"):
        Ensemble({"red": term(RED, 1.0, 0)})
    several = replace(RED, extra=("second",))
    for make in (lambda: Ensemble({"red": term(several, 1.0)}), lambda: PerAspect({"red": several})):
        with pytest.raises(InputError, match="red by a reward of 2 aspects: reward 'red' has the aspects red, second"):
            make()


def test_what_a_part_cannot_the_whole_cannot():
    judge = replace(BLUE, differentiable=False, needs_facts=True)
    for whole in (Ensemble({"a": term(RED, 1.0), "b": term(judge, 1.0)}), PerAspect({"a": RED, "b": judge})):
        assert whole.needs_facts
        with pytest.raises(InputError, match=f"reward '{whole.name}' in a loss"):
            check_differentiable(whole)
    check_differentiable(PerAspect({"a": RED}))


def test_per_aspect(images):
    reward = per_aspect(visual_quality=BLUE, prompt_following=GREEN, identity_consistency=RED)
    assert reward.aspects == ASPECTS
    scores = reward.score(reward.params, images, reward.encode(ASKED))
    np.testing.assert_allclose(scores[:, :2], by_hand(images)[:, ::-1], rtol=1e-5)
    np.testing.assert_allclose(scores[:, 2:], BLUE.score(BLUE.params, images, BLUE.encode(ASKED)), rtol=1e-6)


# Calibration


def test_calibration_by_hand_and_on_disk(tmp_path):
    found = Calibration.of(RED, np.float32([[1], [3], [8]]), "64 tune scenes")
    np.testing.assert_allclose([found.mean[0], found.std[0]], [4, np.sqrt(26 / 3)])
    found.save(tmp_path / "calibration.json")
    read = Calibration.load(tmp_path / "calibration.json", RED)
    assert (read.mean, read.std, read.on) == (found.mean, found.std, "64 tune scenes")
    assert Calibration.of(RED, np.ones((3, 1)), "x").std == [1e-3]


def test_unfit_calibrations(tmp_path):
    path = tmp_path / "calibration.json"
    with pytest.raises(InputError, match="there is no such file"):
        Calibration.load(path, RED)
    calibration(GREEN).save(path)
    with pytest.raises(InputError, match=r"for reward 'red': it is of reward 'green' with green"):
        Calibration.load(path, RED)
    for broken in ('{"mean": [1]}', "[1]", path.read_text().replace("0.2", "0"), path.read_text().replace("0.2", "")):
        path.write_text(broken)
        with pytest.raises(InputError, match="calibrate again"):
            Calibration.load(path, GREEN)
    with pytest.raises(InputError, match="2 scores of reward 'red' on mine: they are not finite"):
        Calibration.of(RED, [[1], [np.nan], [np.inf]], "mine")
