"""CLIP equals transformers' with random weights, and its name tables cover the published sizes."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import published_shapes, relative_error

from narrative_jax.core.errors import InputError
from narrative_jax.losses.contrastive import MAX_LOGIT_SCALE, clip_contrastive
from narrative_jax.models.checkpoints import load_weights, published_names
from narrative_jax.models.clip import (
    CLIP_NAMES,
    CLIP_SIZES,
    CLIP_TEXT_NAMES,
    CLIP_VISION_NAMES,
    Clip,
    ClipTextConfig,
    ClipTextEncoder,
    ClipVisionConfig,
    ClipVisionEncoder,
)
from narrative_jax.models.network import abstract
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.models.stacks import stacked, unstacked

SMALL = (
    ClipTextConfig(99, 13, 32, 4, 2, 70, 24, 98, "quick_gelu"),
    ClipVisionConfig(30, 7, 36, 3, 2, 50, 24, "quick_gelu"),
)
ODD = (
    ClipTextConfig(57, 9, 40, 5, 3, 33, 17, 40, "gelu"),
    ClipVisionConfig(33, 8, 28, 7, 3, 61, 17, "gelu"),
)
SIZES = {"quick_gelu": SMALL, "gelu": ODD}


def build(text, vision):
    return lambda: Clip(text, vision, rngs=nnx.Rngs(0))


def clip_config(text, vision):
    """The same sizes in transformers' words."""
    transformers = pytest.importorskip("transformers")
    both = [
        {
            "hidden_size": config.width,
            "num_attention_heads": config.heads,
            "num_hidden_layers": config.blocks,
            "intermediate_size": config.mlp_width,
            "hidden_act": config.activation,
            "projection_dim": config.projection or 512,
        }
        for config in (text, vision)
    ]
    both[0] |= {"vocab_size": text.vocab_size, "max_position_embeddings": text.max_length}
    both[0] |= {"eos_token_id": text.end_token, "bos_token_id": 0}
    both[1] |= {"image_size": vision.image_size, "patch_size": vision.patch_size}
    return transformers.CLIPConfig(text_config=both[0], vision_config=both[1], projection_dim=vision.projection)


@pytest.fixture(scope="module", params=SIZES)
def towers(request, tmp_path_factory):
    """Sizes, transformers' model with random weights everywhere, and ours with the same."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    save_file = pytest.importorskip("safetensors.torch").save_file
    text, vision = SIZES[request.param]
    theirs = transformers.CLIPModel(clip_config(text, vision)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():  # as built, all biases are 0 and hide mistakes
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    path = tmp_path_factory.mktemp("clip") / "model.safetensors"
    save_file(theirs.state_dict(), path)
    network, shapes = abstract(build(text, vision))
    return text, vision, theirs, network.bind(load_weights(path, shapes, CLIP_NAMES))


def prompts(config, length, seed=0):
    """Token numbers with one end token and padding by it, as CLIP's tokeniser gives; one prompt fills its row."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, config.end_token, (3, length))
    for row, end in zip(tokens, (1, length // 2, length - 1), strict=True):
        row[end:] = config.end_token
    return tokens


@pytest.mark.parametrize("shorter", [0, 4])
def test_text_tower(towers, shorter):
    import torch

    config, _, theirs, ours = towers
    tokens = prompts(config, config.max_length - shorter)
    with torch.no_grad():
        expected = theirs.text_model(torch.tensor(tokens))
        projected = theirs.text_projection(expected.pooler_output)
    encoding = jax.jit(lambda tokens: ours.text(tokens))(tokens)
    assert relative_error(encoding.tokens, expected.last_hidden_state) <= 1e-4
    assert relative_error(encoding.pooled, expected.pooler_output) <= 1e-4
    assert relative_error(encoding.projected, projected) <= 1e-4


def test_vision_tower(towers):
    import torch

    _, config, theirs, ours = towers
    images = np.random.default_rng(1).normal(size=(3, config.image_size, config.image_size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.vision_model(torch.tensor(images).permute(0, 3, 1, 2))
        projected = theirs.visual_projection(expected.pooler_output)
    encoding = jax.jit(lambda images: ours.vision(images))(images)
    assert relative_error(encoding.tokens, expected.last_hidden_state) <= 1e-4
    assert relative_error(encoding.pooled, expected.pooler_output) <= 1e-4
    assert relative_error(encoding.projected, projected) <= 1e-4


def test_the_class_token_alone_costs_less():
    network, shapes = abstract(lambda: ClipVisionEncoder(SMALL[1], rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((2, 30, 30, 3), jnp.float32)

    def flops(part):
        run = jax.jit(lambda params, images: getattr(network.bind(params)(images), part))
        return run.lower(shapes, images).compile().cost_analysis()["flops"]

    assert flops("projected") < 0.8 * flops("tokens")  # of 2 blocks; about 0.65


def test_embeddings_and_loss(towers):
    import torch

    text, vision, theirs, ours = towers
    tokens = prompts(text, text.max_length, seed=2)
    images = np.random.default_rng(3).normal(size=(3, vision.image_size, vision.image_size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens), torch.tensor(images).permute(0, 3, 1, 2), return_loss=True)
    embeddings = jax.jit(lambda tokens, images: ours(tokens, images))(tokens, images)
    assert relative_error(embeddings[0], expected.text_embeds) <= 1e-4
    assert relative_error(embeddings[1], expected.image_embeds) <= 1e-4
    losses = clip_contrastive(*embeddings, ours.logit_scale[...])
    assert losses.shape == (3,)
    np.testing.assert_allclose(losses.mean(), expected.loss.item(), rtol=1e-4)


def test_prompts_of_openclip():
    # OpenCLIP pads by 0, and the config of its H/14 keeps a wrong end token, 2: transformers then takes the highest
    # number of a prompt for its end, which is the end token of CLIP's vocabulary.
    import torch

    transformers = pytest.importorskip("transformers")
    config = replace(SMALL[0], activation="gelu")
    sizes = clip_config(config, SMALL[1]).text_config
    sizes.eos_token_id = 2
    theirs = transformers.CLIPTextModelWithProjection(sizes).eval()
    network, shapes = abstract(lambda: ClipTextEncoder(config, rngs=nnx.Rngs(0)))
    state = theirs.state_dict()
    params = {
        name: jnp.asarray(state[key].numpy().transpose(layout or range(state[key].ndim)))
        for name, (key, layout) in published_names(unstacked(shapes), CLIP_TEXT_NAMES).items()
    }
    params = stacked(params, shapes)
    tokens = prompts(config, config.max_length)
    tokens[0, 0] = 2  # an ordinary word here
    tokens = np.where(np.cumsum(tokens == config.end_token, axis=1) > 1, 0, tokens)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).text_embeds
    assert relative_error(network.bind(params)(tokens).projected, expected) <= 1e-4


def shapes_on_disk(module, names):
    """Keys and shapes that our module would write."""
    return published_shapes(abstract(module)[1], names)


def torch_shapes(name, config):
    """Keys and shapes of transformers' model, which is never filled."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in getattr(transformers, name)(config).state_dict().items()}


WEIGHTS = {"ViT-B/32": 151_277_313, "ViT-L/14": 427_616_513, "ViT-H/14": 986_109_441}
UNSEEN = {  # in keys and shapes
    "ViT-B/32": ("quick_gelu", 8, "quick_gelu", 12),
    "ViT-L/14": ("quick_gelu", 12, "quick_gelu", 16),
    "ViT-H/14": ("gelu", 16, "gelu", 16),
}


@pytest.mark.parametrize("size", [size for size in CLIP_SIZES if size != STORYBOOK])
def test_names_cover_the_published_sizes(size):
    text, vision = CLIP_SIZES[size]
    config = clip_config(text, vision)
    towers = shapes_on_disk(build(text, vision), CLIP_NAMES)
    assert towers == torch_shapes("CLIPModel", config)
    assert sum(math.prod(shape) for shape in towers.values()) == WEIGHTS[size]
    assert (text.activation, text.heads, vision.activation, vision.heads) == UNSEEN[size]
    encoder = shapes_on_disk(lambda: ClipTextEncoder(text, rngs=nnx.Rngs(0)), CLIP_TEXT_NAMES)
    assert encoder == torch_shapes("CLIPTextModelWithProjection", config.text_config)
    encoder = shapes_on_disk(lambda: ClipVisionEncoder(vision, rngs=nnx.Rngs(0)), CLIP_VISION_NAMES)
    assert encoder == torch_shapes("CLIPVisionModelWithProjection", config.vision_config)


def test_the_default_is_the_text_encoder_of_flux():
    ours = shapes_on_disk(lambda: ClipTextEncoder(ClipTextConfig(), rngs=nnx.Rngs(0)), CLIP_TEXT_NAMES)
    theirs = torch_shapes("CLIPTextModel", clip_config(ClipTextConfig(), ClipVisionConfig()).text_config)
    prefix = "text_model."  # published files have it, whether or not the class at hand shows it
    assert ours == {prefix + key.removeprefix(prefix): shape for key, shape in theirs.items()}


@pytest.mark.parametrize("config", [ClipTextConfig, ClipVisionConfig])
def test_unknown_activation(config):
    with pytest.raises(InputError, match="did you mean 'quick_gelu'"):
        config(activation="quick_gelo")


def test_wrong_inputs():
    with pytest.raises(InputError, match="text projection of None and an image projection of 768"):
        Clip(ClipTextConfig(), ClipVisionConfig(), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="prompts of 14 tokens: this text encoder reads up to 13"):
        jax.eval_shape(lambda: Clip(*SMALL, rngs=nnx.Rngs(0)).text(jnp.zeros((1, 14), int)))
    with pytest.raises(InputError, match=r"images of shape \[30, 29, 3\]: this vision encoder sees \[30, 30, 3\]"):
        jax.eval_shape(lambda: Clip(*SMALL, rngs=nnx.Rngs(0)).vision(jnp.zeros((1, 30, 29, 3))))


# The contrastive loss


def test_contrastive_loss_by_hand():
    # Text i lies along axis i, as image i does, but image 2 halfway to axis 0: cosines 1, 1 and ½√2.
    text, image = np.eye(3) * [[2], [1], [5]], np.array([[3, 0, 0], [0, 1, 0], [1, 0, 1]])
    logits = 2 * np.array([[1, 0, 0.5**0.5], [0, 1, 0], [0, 0, 0.5**0.5]])
    across = -np.diag(logits) + np.log(np.exp(logits).sum(1))
    down = -np.diag(logits) + np.log(np.exp(logits).sum(0))
    np.testing.assert_allclose(clip_contrastive(text, image, np.log(2)), (across + down) / 2, rtol=1e-5)


def test_contrastive_loss_is_symmetric_and_bounded():
    text, image = np.random.default_rng(0).normal(size=(2, 5, 4))
    np.testing.assert_allclose(clip_contrastive(text, image, 1.0), clip_contrastive(image, text, 1.0), rtol=1e-5)
    np.testing.assert_allclose(clip_contrastive(text, text, -30.0), np.full(5, np.log(5)), rtol=1e-5)
    highest = clip_contrastive(text, image, MAX_LOGIT_SCALE)
    np.testing.assert_allclose(clip_contrastive(text, image, 9.0), highest)
