"""Networks that look at pictures."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.models.checkpoints import CONV, STORYBOOK, Published
from narrative_jax.models.clip_blocks import ACTIVATIONS, EPSILON, block_names, blocks, normal, projection
from narrative_jax.models.layers import LayerNorm, convolve
from narrative_jax.models.preprocessing import CENTRED, CLIP, Normalisation
from narrative_jax.models.text_encoders import CLIP_TEXT_NAMES, ClipTextConfig, ClipTextEncoder

LOGIT_SCALE = 2.6592  # ln(1 / 0.07), where CLIP starts

CLIP_VISION_NAMES = {
    "class_embedding": Published("vision_model.embeddings.class_embedding"),
    "patch_embedding": Published("vision_model.embeddings.patch_embedding.weight", CONV),
    "position_embedding": Published("vision_model.embeddings.position_embedding.weight"),
    "norm_in": "vision_model.pre_layrnorm",  # spelt so in every published file
    **block_names("vision_model"),
    "norm": "vision_model.post_layernorm",
    "projection": "visual_projection",
}
CLIP_NAMES = {
    "logit_scale": Published("logit_scale"),
    **{f"text.{ours}": theirs for ours, theirs in CLIP_TEXT_NAMES.items()},
    **{f"vision.{ours}": theirs for ours, theirs in CLIP_VISION_NAMES.items()},
}


@dataclass(frozen=True)
class ClipVisionConfig:
    """Sizes; the defaults are those of OpenAI's ViT-L/14. `normalisation` is what its pictures have gone through.

    Raises InputError for an unknown activation.
    """

    image_size: int = 224
    patch_size: int = 14
    width: int = 1024
    heads: int = 16
    blocks: int = 24
    mlp_width: int = 4096
    projection: int = 768
    activation: str = "quick_gelu"
    normalisation: Normalisation = CLIP

    def __post_init__(self):
        check_name("activation", self.activation, ACTIVATIONS)


# The published pairs of towers, OpenAI's B/32 and L/14 and OpenCLIP's H/14 (laion2B-s32B-b79K), and Storybook's.
CLIP_SIZES = {
    "ViT-B/32": (
        ClipTextConfig(width=512, heads=8, mlp_width=2048, projection=512),
        ClipVisionConfig(patch_size=32, width=768, heads=12, blocks=12, mlp_width=3072, projection=512),
    ),
    "ViT-L/14": (ClipTextConfig(projection=768), ClipVisionConfig()),
    "ViT-H/14": (
        ClipTextConfig(width=1024, heads=16, blocks=24, mlp_width=4096, projection=1024, activation="gelu"),
        ClipVisionConfig(width=1280, blocks=32, mlp_width=5120, projection=1024, activation="gelu"),
    ),
    STORYBOOK: (
        ClipTextConfig(max_length=24, width=128, heads=4, blocks=3, mlp_width=512, projection=128),
        ClipVisionConfig(40, 8, width=128, heads=4, blocks=3, mlp_width=512, projection=128, normalisation=CENTRED),
    ),
}


class VisionEncoding(NamedTuple):
    """`tokens` f32[b, 1 + patches, width] of the last block (class token first), `pooled` f32[b, width], normalised,
    and `projected` f32[b, projection].
    """

    tokens: jax.Array
    pooled: jax.Array
    projected: jax.Array


class ClipVisionEncoder(nnx.Module):
    """CLIP's image tower: patches and a class token that stands for the picture."""

    def __init__(self, config: ClipVisionConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, patch = config.width, config.patch_size
        positions = 1 + (config.image_size // patch) ** 2
        self.class_embedding = nnx.Param(normal(width**-0.5)(rngs.params(), (width,)), axes=("embed",))
        kernel = normal(0.02)(rngs.params(), (patch, patch, 3, width))
        self.patch_embedding = nnx.Param(kernel, axes=(None, None, None, "embed"))
        self.position_embedding = nnx.Param(normal(0.02)(rngs.params(), (positions, width)), axes=(None, "embed"))
        self.norm_in = LayerNorm(width, epsilon=EPSILON)
        self.blocks = blocks(config, rngs=rngs)
        self.norm = LayerNorm(width, epsilon=EPSILON)
        self.projection = projection(config, rngs=rngs)

    def __call__(self, images: jax.Array) -> VisionEncoding:
        """`images` f32[b, h, w, 3], of the config's size and already normalised. Raises InputError for another size."""
        size = self.config.image_size
        if images.shape[1:] != (size, size, 3):
            given = f"images of shape {list(images.shape[1:])}"
            raise InputError(given, f"this vision encoder sees [{size}, {size}, 3]", "resize them")
        patches = convolve(images, self.patch_embedding[...], self.config.patch_size)
        patches = patches.reshape(len(images), -1, self.config.width)
        first = jnp.broadcast_to(self.class_embedding[...], (len(images), 1, self.config.width))
        x = self.norm_in(jnp.concatenate([first, patches], axis=1) + self.position_embedding[...])
        *others, last = self.blocks
        for block in others:
            x = block(x)
        # Most want the class token only: computed apart, it lets jit leave out the last block's other tokens.
        pooled = self.norm(last(x, first=1)[:, 0])
        return VisionEncoding(last(x), pooled, self.projection(pooled))


class Clip(nnx.Module):
    """Both towers, and the logarithm of the scale that turns their cosines into logits."""

    def __init__(self, text: ClipTextConfig, vision: ClipVisionConfig, *, rngs: nnx.Rngs):
        """Raises InputError where the towers' projections differ."""
        if text.projection != vision.projection:
            given = f"a text projection of {text.projection} and an image projection of {vision.projection}"
            raise InputError(given, "texts and images share one space", "set both alike")
        self.text = ClipTextEncoder(text, rngs=rngs)
        self.vision = ClipVisionEncoder(vision, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.float32(LOGIT_SCALE), axes=())

    def __call__(self, tokens: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Embeddings of unit length, f32[b, projection], of prompts i32[b, t] and of images f32[c, h, w, 3]."""
        return unit(self.text(tokens).projected), unit(self.vision(images).projected)


class TwoViews(nnx.Module):
    """An encoder of pictures while it learns to tell which two are of the same thing, and the logits' scale."""

    def __init__(self, encoder: nnx.Module):
        self.encoder = encoder
        self.logit_scale = nnx.Param(jnp.float32(LOGIT_SCALE), axes=())

    def __call__(self, first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Embeddings of unit length, f32[b, d], of pictures f32[b, h, w, 3] and of f32[b, h, w, 3]."""
        both = unit(self.encoder(jnp.concatenate([first, second])).pooled)
        return both[: len(first)], both[len(first) :]


def unit(x: jax.Array) -> jax.Array:
    """`x` scaled to unit length over its last axis."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
