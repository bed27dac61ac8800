"""The pure half of rewards: the adapter to the host, and what a loss refuses."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.core.mesh import make_mesh
from narrative_jax.core.records import Scene
from narrative_jax.rewards.base import FitsAndJudges, OnHost, WithWeights, check_differentiable
from narrative_jax.rewards.ensemble import PerAspect
from narrative_jax.rewards.oracle import Oracle


@dataclass(frozen=True)
class Brightness(FitsAndJudges):
    """Mean of a picture times the length of its prompt, and their sum; notes what it traces and encodes."""

    name = "brightness"
    aspects = ("product", "sum")
    differentiable = True
    needs_facts = False
    least_size = (3, 4)
    traced: list = field(default_factory=list)
    encoded: list = field(default_factory=list)
    params = {"scale": jnp.float32(2)}  # noqa: RUF012 (a constant of the test)
    axes = {"scale": ()}  # noqa: RUF012

    def encode(self, scenes):
        self.encoded.append(len(scenes))
        return {"length": np.float32([len(scene.prompt) for scene in scenes])}

    def fit(self, images, context):
        return images.mean((1, 2))

    def judge(self, params, fitted, context, critiques=None):
        self.traced.append(fitted.shape)
        bright = params["scale"] * fitted.mean(1)
        return jnp.stack([bright * context["length"], bright + context["length"]], -1)


def sample(count, height, width):
    images = np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)
    return images, [Scene(str(i), "x" * (i + 1), (), "user") for i in range(count)]


def on_host(reward, batch_size=4):
    return OnHost(reward, batch_size, make_mesh({"data": -1}))


def test_a_pure_reward_on_the_host():
    images, scenes = sample(10, 6, 5)
    reward = Brightness()
    scores = on_host(reward).score_images(images, scenes, None)
    bright, length = 2 * (images / 127.5 - 1).mean((1, 2, 3)), np.arange(1, 11)
    np.testing.assert_allclose(scores, np.stack([bright * length, bright + length], 1), rtol=1e-4, atol=1e-4)
    assert scores.dtype == np.float32
    assert reward.encoded == [4, 4, 2], "what fills a batch up is not encoded"


def test_pictures_of_all_sizes_compile_once():
    reward = Brightness()
    host = on_host(reward)
    for count, height, width in [(10, 6, 5), (3, 6, 5), (1, 8, 8), (9, 8, 8), (4, 6, 5)]:
        images, scenes = sample(count, height, width)
        assert host.score_images(images, scenes, None).shape == (count, 2)
    assert reward.traced == [(4, 3)]


def test_once_loaded_nothing_is_read():
    """Weights are read when asked for: at the latest by the first picture, and once."""
    read = []

    class Lazy(Brightness):
        @property
        def params(self):
            read.append("weights")
            return {"scale": jnp.float32(2)}

    host = on_host(Lazy())
    assert not read
    assert host.load() is host and read == ["weights"]
    images, scenes = sample(3, 6, 5)
    expected = on_host(Brightness()).score_images(images, scenes, None)
    for _ in range(2):
        np.testing.assert_array_equal(host.score_images(images, scenes, None), expected)
    assert read == ["weights"]


def test_a_reward_with_other_weights():
    images, scenes = sample(3, 6, 5)
    reward = WithWeights(Brightness(), {"scale": jnp.float32(6)})
    found, usual = (on_host(each).score_images(images, scenes, None) for each in (reward, Brightness()))
    np.testing.assert_allclose(found[:, 0], 3 * usual[:, 0], rtol=1e-5)
    assert (reward.name, reward.aspects, reward.least_size) == ("brightness", ("product", "sum"), (3, 4))
    check_differentiable(reward)


def test_the_adapter_is_the_reward():
    host = on_host(Brightness())
    assert (host.name, host.aspects, host.needs_facts) == ("brightness", ("product", "sum"), False)


@pytest.mark.parametrize("size", [(2, 9), (9, 3), (1, 1)])
def test_pictures_that_are_too_small(size):
    images, scenes = sample(2, *size)
    said = f"candidate 'a' of {size[0]} × {size[1]} pixels: brightness judges pictures of 3 × 4 and more, .*; give it"
    with pytest.raises(InputError, match=said):
        on_host(Brightness()).score_images(images, scenes, ["a", "b"])


def test_an_ensemble_judges_what_all_can():
    parts = {name: SimpleNamespace(least_size=least, aspects="x") for name, least in (("a", (8, 2)), ("b", (3, 4)))}
    whole = PerAspect(parts)
    assert whole.least_size == (8, 4)


def test_a_batch_that_the_mesh_cannot_share():
    with pytest.raises(InputError, match="batch_size of reward 'brightness' 0"):
        on_host(Brightness(), 0)
    mesh = SimpleNamespace(shape={"data": 2, "fsdp": 2})
    with pytest.raises(InputError, match="a multiple of 4"):
        OnHost(Brightness(), 6, mesh)


@pytest.mark.parametrize("reward", [Oracle(), on_host(Brightness())])
def test_a_loss_refuses_what_has_no_gradient(reward):
    check_differentiable(Brightness())
    with pytest.raises(InputError, match=f"reward '{reward.name}' in a loss: .*only scores finished pictures"):
        check_differentiable(reward)


@pytest.mark.slow
def test_eight_devices_score_as_one(tmp_path):
    """Also z-scores: a batch's statistics are those of all its devices."""
    script, out = Path(__file__).with_name("rewards_on_meshes.py"), tmp_path / "scores.npz"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, script, out], env={**os.environ, **flags}, check=True)
    found = np.load(out)
    assert found["devices"] == 8
    assert found["shared"] > 10, "weights are spread over the mesh, not copied"
    assert np.ptp(found["alone"], 0).min() > 0.1
    np.testing.assert_allclose(found["spread"], found["alone"], atol=1e-5)
    np.testing.assert_allclose(found["spread_z"], found["alone_z"], atol=1e-4)
    np.testing.assert_allclose(found["alone_z"].mean(), 0, atol=1e-5)
