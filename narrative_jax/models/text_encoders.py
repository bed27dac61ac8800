"""Networks that read prompts."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.models.checkpoints import Published
from narrative_jax.models.clip_blocks import ACTIVATIONS, EPSILON, block_names, blocks, normal, projection
from narrative_jax.models.layers import LayerNorm

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
    every prompt. Raises InputError for an unknown activation.
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
        for block in self.blocks:
            x = block(x, past)
        x = self.norm(x)
        end = jnp.argmax(tokens == self.config.end_token, axis=1)
        pooled = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        return TextEncoding(x, pooled, None if self.projection is None else self.projection(pooled))
