"""The KL autoencoder equals diffusers'; its names cover the published file."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from parity import published_shapes, relative_error

from narrative_jax.models.autoencoder import KL_NAMES, KLAutoencoder, from_tokens, to_tokens
from narrative_jax.models.checkpoints import load_weights

SMALL = KLAutoencoder(channels=3, widths=(8, 12, 16), blocks=1, groups=4, scale=0.7, shift=0.2)
PARAMETERS = 83_819_683  # of FLUX.1's published file


def reference(config):
    """diffusers' autoencoder of these sizes."""
    diffusers, levels = pytest.importorskip("diffusers"), len(config.widths)
    return diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        latent_channels=config.channels,
        norm_num_groups=config.groups,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """diffusers' autoencoder with random weights everywhere, and ours from the file that it wrote."""
    torch = pytest.importorskip("torch")
    theirs, generator = reference(SMALL), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("vae")
    theirs.save_pretrained(folder)
    return theirs, load_weights(folder / "diffusion_pytorch_model.safetensors", SMALL.shapes, KL_NAMES)


def draw(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (19, 30)])
def test_encoding_takes_the_mean(published, height, width):
    import torch

    theirs, params = published
    images = draw(2, height, width, 3)
    with torch.no_grad():
        mode = theirs.encode(torch.tensor(images).permute(0, 3, 1, 2)).latent_dist.mode()
    expected = (mode.permute(0, 2, 3, 1) - SMALL.shift) * SMALL.scale
    tokens = SMALL.encode(params, images, 1)
    assert relative_error(from_tokens(tokens, 1, height // SMALL.cell), expected) <= 1e-4


@pytest.mark.parametrize(("rows", "columns", "patch"), [(6, 4, 2), (5, 3, 1)])
def test_decoding(published, rows, columns, patch):
    import torch

    theirs, params = published
    latents = draw(2, rows, columns, 3)
    with torch.no_grad():
        expected = theirs.decode(torch.tensor(latents / SMALL.scale + SMALL.shift).permute(0, 3, 1, 2)).sample
    decode = jax.jit(lambda params, tokens: SMALL.decode(params, tokens, patch, rows))
    found = decode(params, to_tokens(latents, patch))
    assert found.shape == (2, rows * SMALL.cell, columns * SMALL.cell, 3)
    assert relative_error(found, expected.permute(0, 2, 3, 1)) <= 1e-4


@pytest.mark.slow
def test_in_bfloat16_latents_and_pictures_stay_float32(published):
    _, params = published
    fast = replace(SMALL, compute="bfloat16")
    for run in (
        lambda autoencoder: autoencoder.encode(params, draw(1, 16, 16, 3), 2),
        jax.jit(lambda autoencoder: autoencoder.decode(params, draw(1, 4, 12), 2, 4), static_argnums=0),
    ):
        found, expected = run(fast), run(SMALL)
        assert found.dtype == np.float32
        assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_names_cover_the_published_file():
    torch = pytest.importorskip("torch")
    ours = published_shapes(KLAutoencoder().shapes, KL_NAMES)
    with torch.device("meta"):
        theirs = {key: tuple(value.shape) for key, value in reference(KLAutoencoder()).state_dict().items()}
    assert ours == theirs
    assert sum(np.prod(shape) for shape in ours.values()) == PARAMETERS
