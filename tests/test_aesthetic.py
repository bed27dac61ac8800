"""The aesthetic score: LAION's head on the embedding that CLIP gives of the cropped picture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_rewards import (
    TEXT,
    TOKENIZER,
    VISION,
    clip_network,
    clip_params,
    pictures,
    scenes,
    small_aesthetic,
    small_clip,
)

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float
from narrative_jax.core.mesh import make_mesh
from narrative_jax.core.options import parse
from narrative_jax.models.checkpoints import LINEAR, Published, save_weights
from narrative_jax.models.clip import CLIP_NAMES, CLIP_SIZES
from narrative_jax.models.preprocessing import CLIP, normalise, shortest_side_crop
from narrative_jax.models.reward_heads import AESTHETIC_HEADS, HeadConfig
from narrative_jax.rewards.aesthetic import AestheticOptions, NewAesthetic
from narrative_jax.rewards.base import OnHost


@pytest.mark.slow
def test_the_score_is_the_heads(random_weights):
    reward, images = small_aesthetic(random_weights), pictures(3)
    network, params = clip_network()[0], clip_params(random_weights)
    _, embeddings = network.bind(params)(np.zeros((1, 8), int), normalise(shortest_side_crop(images, 12, 12), CLIP))
    head = reward.head_params
    hidden = embeddings @ head["layers.0.kernel"] + head["layers.0.bias"]
    expected = hidden @ head["layers.2.kernel"] + head["layers.2.bias"]
    scores = reward.score(reward.params, images, reward.encode(scenes(0, 0, 0)))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(scores) > 0.01
    assert (reward.name, reward.aspects) == ("aesthetic_v2", ("aesthetic_v2",))


def test_it_needs_no_subjects_and_no_prompt_on_the_host(random_weights):
    reward, images = small_aesthetic(random_weights), pictures(3)
    drawn = np.uint8(np.round((images + 1) * 127.5))
    scores = OnHost(reward, 2, make_mesh({"data": -1})).score_images(drawn, scenes(0, 0, 0), None)
    np.testing.assert_allclose(scores, reward.score(reward.params, images, ()), atol=0.02)


@pytest.fixture
def clip(tmp_path, random_weights, monkeypatch):
    """The small CLIP as a published file, of the size and with the head of "v1"."""
    TOKENIZER.save(tmp_path / "tokenizer.json")
    save_weights(tmp_path / "clip.safetensors", clip_params(random_weights), CLIP_NAMES, jnp.float32)
    names = {"layers.*.kernel": Published("weight", LINEAR), "layers.*.bias": Published("bias")}
    monkeypatch.setitem(CLIP_SIZES, "ViT-L/14", (TEXT, VISION))
    monkeypatch.setitem(AESTHETIC_HEADS, "v1", HeadConfig((12, 1), (0,), names))
    return str(tmp_path / "clip.safetensors")


def test_one_to_be_trained(clip, random_weights):
    new = parse(NewAesthetic, {"clip": clip, "version": "v1"}, "train.reward")
    (reward, read), (_, again), (_, other) = (new.untrained(seed) for seed in (0, 0, 1))
    params = read()
    assert {name for name in params if new.trains(name)} == {"head.layers.0.kernel", "head.layers.0.bias"}
    assert params.keys() == reward.axes.keys()
    np.testing.assert_array_equal(params["head.layers.0.kernel"], again()["head.layers.0.kernel"])
    assert (params["head.layers.0.kernel"] != other()["head.layers.0.kernel"]).any()
    np.testing.assert_array_equal(
        params["clip.vision.norm.scale"], small_clip(random_weights).params["vision.norm.scale"]
    )


def test_saved_and_loaded_it_scores_the_same(clip, tmp_path):
    new = NewAesthetic(clip, "v1")
    reward, read = new.untrained(0)
    params = {name: value + 0.1 * new.trains(name) for name, value in read().items()}
    images, folder = pictures(2), tmp_path / "run"
    folder.mkdir()
    new.save(folder, reward, params)
    loaded = new.load(folder)
    expected = jax.jit(reward.score)(params, images, ())
    np.testing.assert_array_equal(jax.jit(loaded.score)(loaded.params, images, ()), expected)
    built = parse(AestheticOptions, {"clip": clip, "head": str(folder / "weights.safetensors"), "version": "v1"}, "x")
    np.testing.assert_array_equal(jax.jit(built.build().score)(loaded.params, images, ()), expected)
    assert (loaded.name, AestheticOptions("a", "b").version) == ("aesthetic_v1", "v2")


def test_it_is_trained_on_what_it_looks_at(clip):
    """The middle of a picture, as large as the tower sees it."""
    image = np.zeros((24, 36, 3), np.uint8)
    image[:, 4:32] = np.uint8(np.linspace(100, 200, 28))[None, :, None]
    fitted = NewAesthetic(clip, "v1").fitted(image)
    assert fitted.shape == (12, 12, 3) and fitted.min() > 90
    np.testing.assert_allclose(to_float(fitted), shortest_side_crop(to_float(image)[None], 12, 12)[0], atol=0.02)


def test_versions_that_are_none(clip):
    with pytest.raises(InputError, match=r"unknown version 'v3': known are v1, v2, storybook"):
        NewAesthetic(clip, "v3")
    with pytest.raises(InputError, match=r"unknown version of aesthetic 'v3': known are v1, v2, storybook"):
        AestheticOptions(clip, clip, "v3").build()
    with pytest.raises(InputError, match="weights 'no/where': there is no such file"):
        AestheticOptions(clip, "no/where", "v1").build()
