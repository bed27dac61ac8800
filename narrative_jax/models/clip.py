"""CLIP (Radford et al. 2021): a tower that reads prompts, one that looks at pictures, and the blocks of both."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.models.attention import attend
from narrative_jax.models.checkpoints import CONV, Published
from narrative_jax.models.layers import LayerNorm, Linear, convolve, unit
from narrative_jax.models.preprocessing import CENTRED, CLIP, Normalisation
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.models.stacks import Stack

EPSILON = 1e-5
LOGIT_SCALE = 2.6592  # ln(1 / 0.07), where CLIP starts
ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


class ClipBlock(nnx.Module):
    """Attention, then an MLP, each on normalised input and added to it."""

    def __init__(self, width, heads, mlp_width, activation, depth, *, rngs: nnx.Rngs):
        self.heads, self.activation = heads, activation
        # CLIP's own deviations: what is added to the stream starts small, the smaller the more blocks add to it.
        add = normal(width**-0.5 * (2 * depth) ** -0.5)
        self.norm_attention = LayerNorm(width, epsilon=EPSILON)
        self.query, self.key, self.value = (
            Linear(width, width, axes=("embed", "heads"), kernel_init=normal(width**-0.5), rngs=rngs) for _ in range(3)
        )
        self.attention_out = Linear(width, width, axes=("heads", "embed"), kernel_init=add, rngs=rngs)
        self.norm_mlp = LayerNorm(width, epsilon=EPSILON)
        start = normal((2 * width) ** -0.5)
        self.mlp_in = Linear(width, mlp_width, axes=("embed", "mlp"), kernel_init=start, rngs=rngs)
        self.mlp_out = Linear(mlp_width, width, axes=("mlp", "embed"), kernel_init=add, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None, first: int | None = None) -> jax.Array:
        """All tokens, or the `first` alone, which have seen all."""
        normed = self.norm_attention(x)
        pairs = ((self.query, normed[:, :first]), (self.key, normed), (self.value, normed))
        q, k, v = (layer(tokens).reshape(*tokens.shape[:-1], self.heads, -1) for layer, tokens in pairs)
        x = x[:, :first]
        x = x + self.attention_out(attend(q, k, v, mask).reshape(x.shape))
        return x + self.mlp_out(ACTIVATIONS[self.activation](self.mlp_in(self.norm_mlp(x))))


def blocks(config, *, rngs: nnx.Rngs) -> Stack:
    """The blocks of a tower with the sizes of its config."""
    sizes = config.width, config.heads, config.mlp_width, config.activation, config.blocks
    return Stack(lambda rngs: ClipBlock(*sizes, rngs=rngs), config.blocks, rngs=rngs)


def projection(config, *, rngs: nnx.Rngs) -> Linear:
    """Into the space that texts and images share."""
    sizes, init = (config.width, config.projection), normal(config.width**-0.5)
    return Linear(*sizes, axes=("embed", None), bias=False, kernel_init=init, rngs=rngs)


def block_names(tower: str) -> dict[str, str]:
    """Published names of the blocks of a tower, "text_model" or "vision_model"."""
    layers = {
        "norm_attention": "layer_norm1",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "attention_out": "self_attn.out_proj",
        "norm_mlp": "layer_norm2",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    }
    return {f"blocks.*.{ours}": f"{tower}.encoder.layers.*.{theirs}" for ours, theirs in layers.items()}


def normal(deviation: float):
    """Initial values of this deviation."""
    return nnx.initializers.normal(deviation)


CLIP_TEXT_NAMES = {
    "token_embedding": Published("text_model.embeddings.token_embedding.weight"),
    "position_embedding": Published("text_model.embeddings.position_embedding.weight"),
    **block_names("text_model"),
    "norm": "text_model.final_layer_norm",
    "projection": "text_projection",
}


@dataclass(frozen=True)
class ClipTextConfig:
    """Sizes; the defaults are those of OpenAI's ViT-L/14, which FLUX and SDXL read prompts with.

    `projection` is the size of the embedding shared with images, None for an encoder without one. `end_token` closes
    every prompt. `scanned` says how the blocks run, see `Stack.run`. Raises InputError for an unknown activation.
    """

    vocab_size: int = 49408
    max_length: int = 77
    width: int = 768
    heads: int = 12
    blocks: int = 12
    mlp_width: int = 3072
    projection: int | None = None
    end_token: int = 49407
    activation: str = "quick_gelu"
    scanned: bool = False

    def __post_init__(self):
        check_name("activation", self.activation, ACTIVATIONS)


class TextEncoding(NamedTuple):
    """`tokens` f32[b, t, width] of the last block, `pooled` f32[b, width], `projected` f32[b, projection] or None."""

    tokens: jax.Array
    pooled: jax.Array
    projected: jax.Array | None


class ClipTextEncoder(nnx.Module):
    """CLIP's text tower: each token sees those before it, the first end token stands for the prompt."""

    def __init__(self, config: ClipTextConfig, *, rngs: nnx.Rngs):
        self.config = config
        tokens = normal(0.02)(rngs.params(), (config.vocab_size, config.width))
        positions = normal(0.01)(rngs.params(), (config.max_length, config.width))
        self.token_embedding = nnx.Param(tokens, axes=("vocab", "embed"))
        self.position_embedding = nnx.Param(positions, axes=(None, "embed"))
        self.blocks = blocks(config, rngs=rngs)
        self.norm = LayerNorm(config.width, epsilon=EPSILON)
        self.projection = projection(config, rngs=rngs) if config.projection else None

    def __call__(self, tokens: jax.Array) -> TextEncoding:
        """`tokens` i32[b, t], as `Tokenizer.encode` gives them. Raises InputError for more than `max_length`."""
        length = tokens.shape[1]
        if length > self.config.max_length:
            rule = f"this text encoder reads up to {self.config.max_length}"
            raise InputError(f"prompts of {length} tokens", rule, "encode them to a smaller length")
        x = self.token_embedding[tokens] + self.position_embedding[:length]
        past = jnp.tril(jnp.ones((length, length), bool))
        x, _ = self.blocks.run(lambda block, x, _: (block(x, past), None), x, scanned=self.config.scanned)
        x = self.norm(x)
        end = jnp.argmax(tokens == self.config.end_token, axis=1)
        pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        return TextEncoding(x, pooled, None if self.projection is None else self.projection(pooled))


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

    `scanned` says how the blocks run, see `Stack.run`. Raises InputError for an unknown activation.
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
    scanned: bool = False

    def __post_init__(self):
        check_name("activation", self.activation, ACTIVATIONS)


# The published pairs of towers, OpenAI's B/32 and L/14 and OpenCLIP's H/14 (laion2B-s32B-b79K), and Storybook's.
CLIP_SIZES = {
    "ViT-B/32": (
        ClipTextConfig(width=512, heads=8, mlp_width=2048, projection=512),
        ClipVisionConfig(patch_size=32, width=768, heads=12, blocks=12, mlp_width=3072, projection=512),
    ),
    "ViT-L/14": (ClipTextConfig(projection=768), ClipVisionConfig(scanned=True)),
    "ViT-H/14": (
        ClipTextConfig(
            width=1024, heads=16, blocks=24, mlp_width=4096, projection=1024, activation="gelu", scanned=True
        ),
        ClipVisionConfig(width=1280, blocks=32, mlp_width=5120, projection=1024, activation="gelu", scanned=True),
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
        others = self.config.blocks - 1
        x, _ = self.blocks.run(lambda block, x, _: (block(x), None), x, count=others, scanned=self.config.scanned)
        last = self.blocks.block(-1)
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
