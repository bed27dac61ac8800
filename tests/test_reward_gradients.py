"""The gradient of every differentiable reward is what finite differences in float64 give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_rewards import (
    pictures,
    scenes,
    small_aesthetic,
    small_clip,
    small_dino,
    small_iresnet,
    small_scalar,
    with_faces,
)

from narrative_jax.core.images import to_float, to_uint8
from narrative_jax.core.mesh import make_mesh
from narrative_jax.rewards.base import OnHost
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.rewards.clip_scores import ClipCosine, ClipScore, HpsV2, PickScore
from narrative_jax.rewards.ensemble import Ensemble, Term, per_aspect
from narrative_jax.rewards.identity import Identity
from narrative_jax.rewards.subject_consistency import Crops, Grid, SubjectConsistency

HALVES = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))


def rewards(random_weights):
    clip, dino = small_clip(random_weights), small_dino(random_weights)
    two = {"max_subjects": 2, "regions": HALVES}
    single = {
        "clip_cosine": ClipCosine(clip),
        "clip_score": ClipScore(clip),
        "hps_v2": HpsV2(clip),
        "pick_score": PickScore(clip),
        "aesthetic": small_aesthetic(random_weights),
        "grid": SubjectConsistency(dino, Grid(12, 6), side=24, **two),
        "crops": SubjectConsistency(dino, Crops(16, 2, 8), side=24, **two),
        "penalised": SubjectConsistency(dino, Grid(12, 6), side=24, penalty=3.0, threshold=-0.5, **two),
        "identity": Identity(dino, 16, **two),
        "faces": Identity(small_iresnet(random_weights), 32, 2, landmarks=True),
        "scalar": small_scalar(random_weights),
    }
    parts = single["clip_cosine"], single["identity"], single["aesthetic"]
    terms = {r.name: Term(r, Calibration(r.name, r.aspects, (0.1,), (0.2,), "x"), 0.5) for r in parts}
    whole = per_aspect(prompt_following=parts[0], identity_consistency=parts[1], visual_quality=parts[2])
    return single | {"ensemble": Ensemble(terms), "per_aspect": whole}


NAMES = [
    "clip_cosine",
    "clip_score",
    "hps_v2",
    "pick_score",
    "aesthetic",
    "grid",
    "crops",
    "penalised",
    "identity",
    "faces",
    "scalar",
]


@pytest.fixture(scope="module")
def every(random_weights):
    return rewards(random_weights)


@pytest.mark.parametrize("name", [*NAMES, "ensemble", "per_aspect"])
def test_every_weight_has_its_axes(every, name):
    """By its own name, as many as it has, so that a mesh can share it."""
    reward = every[name]
    assert {key: len(axes) for key, axes in reward.axes.items()} == {
        key: np.ndim(value) for key, value in reward.params.items()
    }
    assert {"embed", "mlp"} & {axis for axes in reward.axes.values() for axis in axes} or name == "faces"


# What compiles quickly always runs, the others with the slow tests.
QUICK = ("clip_cosine", "aesthetic", "grid", "identity")
EVERY = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in (*NAMES, "ensemble", "per_aspect")
]


@pytest.mark.parametrize("name", EVERY)
def test_gradient(every, name):
    """Along a random direction of pictures and aspects, relative to the pictures' own slopes; all of them count."""
    assert list(every) == [*NAMES, "ensemble", "per_aspect"]
    reward, rng = every[name], np.random.default_rng(1)
    assert reward.differentiable
    asked = [with_faces(scene) for scene in scenes(1, 2)]
    context = reward.encode(asked)
    with jax.enable_x64(True):
        params, context = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), (reward.params, context))
        images = 0.9 * np.float64(pictures(2, 18, 27, seed=2))
        factors = rng.normal(size=(2, len(reward.aspects)))

        score = jax.jit(lambda images: reward.score(params, images, context))

        def value(images):
            return (factors * score(images)).sum()

        slope = np.asarray(jax.jit(jax.grad(value))(images))
        step = rng.normal(size=images.shape)
        step /= np.linalg.norm(step)
        step += slope / np.linalg.norm(slope)  # so that the difference does not drown in rounding
        size = 1e-3
        difference = (value(images + size * step) - value(images - size * step)) / (2 * size)
        felt = np.asarray(score(images)).any(1)  # all but a CLIPScore cut off at 0
    assert felt.any()
    np.testing.assert_array_equal(np.abs(slope).max((1, 2, 3)) > 1e-6, felt)
    np.testing.assert_allclose((slope * step).sum(), difference, rtol=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_pictures_of_all_sizes_are_fitted_on_the_host(every, name):
    """In any company as alone, and as on the device, where gradients are."""
    reward, asked = every[name], [with_faces(scene) for scene in scenes(1, 2, 2, 1, 2)]
    images = [
        to_uint8(pictures(1, *size, seed=size[0])[0]) for size in ((18, 27), (40, 30), (18, 27), (24, 24), (90, 20))
    ]
    host = OnHost(reward, 3, make_mesh({"data": 1}))
    found = host.score_images(images, asked, None)
    alone = [host.score_images([image], [scene], None)[0] for image, scene in zip(images, asked, strict=True)]
    np.testing.assert_allclose(found, alone, atol=1e-5)
    score = jax.jit(reward.score)
    on_device = [
        score(reward.params, jnp.asarray(to_float(image)[None]), reward.encode([scene]))[0]
        for image, scene in zip(images[:2], asked[:2], strict=True)
    ]
    np.testing.assert_allclose(found[:2], on_device, atol=1e-3)
