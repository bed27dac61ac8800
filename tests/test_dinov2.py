"""DINOv2 equals transformers' with random weights on pictures of any shape; its names cover the published sizes."""

import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import published_shapes, relative_error, slope

from narrative_jax.core.errors import InputError
from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.dinov2 import DINOV2_NAMES, DINOV2_SIZES, Dinov2Config, Dinov2Encoder, resampling
from narrative_jax.models.network import abstract

SMALL = Dinov2Config(16, 4, 24, 3, 2, 48)  # 4 x 4 patches
ODD = Dinov2Config(15, 3, 20, 5, 3, 56, "swiglu")  # 5 x 5
CASES = {
    "gelu": SMALL,
    "gelu, registers": replace(SMALL, registers=4),
    "swiglu": ODD,
    "swiglu, registers": replace(ODD, registers=3),
}


def structure(config):
    return abstract(lambda: Dinov2Encoder(config, rngs=nnx.Rngs(0)))


def model(config):
    """transformers' model of these sizes."""
    transformers = pytest.importorskip("transformers")
    gated = config.mlp == "swiglu"
    sizes = {
        "hidden_size": config.width,
        "num_hidden_layers": config.blocks,
        "num_attention_heads": config.heads,
        "mlp_ratio": 4 if gated else config.mlp_width // config.width,  # of which a gated MLP keeps two thirds
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "use_swiglu_ffn": gated,
    }
    if config.registers:
        sizes = transformers.Dinov2WithRegistersConfig(num_register_tokens=config.registers, **sizes)
        return transformers.Dinov2WithRegistersModel(sizes)
    return transformers.Dinov2Model(transformers.Dinov2Config(**sizes))


@pytest.fixture(scope="module", params=CASES)
def encoders(request, tmp_path_factory):
    """Sizes, transformers' model with random weights everywhere, and ours with what it saves."""
    torch = pytest.importorskip("torch")
    config = CASES[request.param]
    theirs = model(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("dinov2")
    theirs.save_pretrained(folder)
    network, shapes = structure(config)
    return config, theirs, network.bind(load_weights(folder / "model.safetensors", shapes, DINOV2_NAMES))


def pictures(config, grid, seed=0):
    rows, columns = (size * config.patch_size for size in grid)
    return np.random.default_rng(seed).normal(size=(2, rows, columns, 3)).astype(np.float32)


@pytest.mark.parametrize("grid", [None, (3, 5), (9, 6)])
def test_encoding(encoders, grid):
    import torch

    config, theirs, ours = encoders
    images = pictures(config, grid or (config.image_size // config.patch_size,) * 2)
    with torch.no_grad():
        expected = theirs(torch.tensor(images).permute(0, 3, 1, 2))
    encoding = jax.jit(lambda images: ours(images))(images)
    tokens = expected.last_hidden_state
    kept = [token for token in range(tokens.shape[1]) if not 1 <= token <= config.registers]
    assert relative_error(encoding.tokens, tokens[:, kept]) <= 1e-4
    assert relative_error(encoding.pooled, expected.pooler_output) <= 1e-4


def test_gradients_reach_the_picture(encoders):
    import torch

    config, theirs, ours = encoders
    images, step = pictures(config, (3, 5), seed=1), pictures(config, (3, 5), seed=2)
    towards = np.random.default_rng(3).normal(size=(2, config.width)).astype(np.float32)
    expected = slope(theirs, lambda encoding: encoding.pooler_output, images, step)
    gradient = jax.jit(jax.grad(lambda images: (ours(images).pooled * towards).sum()))(images)
    along = (gradient * step).sum((1, 2, 3))  # of each picture: the gradient's part along a random step
    assert relative_error(along, (expected * torch.tensor(towards)).sum(1)) <= 1e-4


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("old, new", [(4, 3), (4, 5), (5, 1), (7, 23), (37, 16), (1, 3)])
def test_resampling(old, new, antialias):
    torch = pytest.importorskip("torch")
    values = torch.tensor(np.random.default_rng(0).normal(size=(1, 1, old, 4)).astype(np.float32))
    expected = torch.nn.functional.interpolate(values, size=(new, 4), mode="bicubic", antialias=antialias)
    matrix = resampling(old, new, antialias)
    assert relative_error(matrix @ values[0, 0].numpy(), expected[0, 0]) <= 1e-5
    np.testing.assert_array_equal(resampling(old, old, antialias), np.eye(old))


WEIGHTS = {"ViT-S/14": 22_056_576, "ViT-B/14": 86_580_480, "ViT-L/14": 304_368_640, "ViT-g/14": 1_136_480_768}
# transformers' modules are renamed, and a gated MLP's first map split in two, when it reads a published file.
PUBLISHED = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.gate_proj": "mlp.weights_in",
    "mlp.up_proj": "mlp.weights_in",
    "mlp.down_proj": "mlp.weights_out",
}


def torch_shapes(config):
    """Published keys and shapes of transformers' model, which is never filled."""
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        state = model(config).state_dict()
    shapes = {}
    for key, value in state.items():
        shape = tuple(value.shape)
        for shown, kept in PUBLISHED.items():
            key = re.sub(rf"\b{shown}\b", kept, key)
        shapes[key] = (2 * shape[0], *shape[1:]) if "weights_in" in key else shape
    return shapes


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("size", WEIGHTS)
def test_names_cover_the_published_sizes(size, registers):
    config = DINOV2_SIZES[f"{size}+registers" if registers else size]
    assert config.registers == registers
    ours = published_shapes(structure(config)[1], DINOV2_NAMES)
    assert ours == torch_shapes(config)
    assert sum(math.prod(shape) for shape in ours.values()) == WEIGHTS[size] + registers * config.width
    assert config.width == 64 * config.heads  # which no shape shows


@pytest.mark.parametrize("shape", [(16, 18, 3), (3, 16, 3), (0, 4, 3), (16, 16, 1)])
def test_wrong_pictures(shape):
    message = f"images of shape {list(shape)}: this vision encoder sees [h, w, 3], h and w multiples of its patch, 4; "
    with pytest.raises(InputError, match=re.escape(message)):
        jax.eval_shape(lambda: Dinov2Encoder(SMALL, rngs=nnx.Rngs(0))(jnp.zeros((1, *shape))))


def test_unknown_mlp():
    with pytest.raises(InputError, match="did you mean 'swiglu'"):
        Dinov2Config(mlp="swiglo")
