"""LAION's aesthetic heads from their published files, against numbers of the papers' own code."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from narrative_jax.core.errors import InputError
from narrative_jax.models.network import split
from narrative_jax.models.reward_heads import AESTHETIC_HEADS, LinearHead, load_aesthetic_head
from narrative_jax.models.torch_files import read_state

FILES = {"v1": "sa_0_4_vit_l_14_linear.pth", "v2": "sac+logos+ava1-l14-linearMSE.pth"}
GOLDEN = {  # of the five embeddings beside the files
    "v1": [-2.4579, -0.1379, 1.8951, 3.5849, 5.0997],
    "v2": [1.6555, 2.3593, 3.0698, 3.6725, 4.2380],
}


@pytest.fixture(scope="module")
def folder(test_data):
    return test_data / "aesthetic"


@pytest.fixture(scope="module")
def embeddings(folder):
    files = [folder / "vit_l_14_embeddings" / f"rating{i}.npy" for i in range(5)]
    return np.stack([np.load(file).reshape(768) for file in files]).astype(np.float32)


@pytest.mark.parametrize("version", ("v1", "v2"))
def test_golden_scores(folder, embeddings, version):
    network, params = load_aesthetic_head(folder / FILES[version], version)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)
    scores = jax.jit(lambda params, x: network.bind(params)(x))(params, embeddings)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, GOLDEN[version], atol=1e-4)


def test_the_layers_are_torchs(folder, embeddings):
    state, x = read_state(folder / FILES["v2"]), np.float64(embeddings)
    for position in (0, 2, 4, 6, 7):
        x = x @ state[f"layers.{position}.weight"].T + state[f"layers.{position}.bias"]
    network, params = load_aesthetic_head(folder / FILES["v2"], "v2")
    np.testing.assert_allclose(network.bind(params)(embeddings), x[:, 0], atol=1e-5)


@pytest.mark.parametrize("version", ("v1", "v2"))
@pytest.mark.slow
def test_every_weight_counts(version):
    network, params = split(LinearHead(AESTHETIC_HEADS[version], rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (2, 768))
    slopes = jax.grad(lambda params: network.bind(params)(x).sum())(params)
    assert all(np.abs(slope).max() > 0 for slope in slopes.values())


@pytest.mark.parametrize("asked, given", [("v1", "v2"), ("v2", "v1")])
def test_the_other_head(folder, asked, given):
    path = folder / FILES[given]
    head = "LAION's aesthetic head"
    said = f"{path}: by its arrays it is {head} {given}, not {head} {asked}: "
    with pytest.raises(InputError, match=f"{re.escape(said)}.*; give weights of {head} {asked}, or ask for {given}$"):
        load_aesthetic_head(path, asked)


def test_no_aesthetic_head_at_all(tmp_path):
    save_file({"weight": np.zeros((1, 512), np.float32), "bias": np.zeros(1, np.float32)}, tmp_path / "b32.safetensors")
    with pytest.raises(InputError, match=r"it is LAION's aesthetic head of 1 × weight \[1, 512\], not .* v1: 1 of"):
        load_aesthetic_head(tmp_path / "b32.safetensors", "v1")


def test_unknown_version(tmp_path):
    with pytest.raises(InputError, match="unknown aesthetic head 'v3': known are v1, v2"):
        load_aesthetic_head(tmp_path / "none.pth", "v3")
