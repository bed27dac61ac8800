"""DINOv2 (Oquab et al. 2023), and its form with register tokens (Darcet et al. 2023)."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.models.attention import attend
from narrative_jax.models.checkpoints import Published
from narrative_jax.models.clip import normal
from narrative_jax.models.layers import Conv, LayerNorm, Linear
from narrative_jax.models.preprocessing import CENTRED, IMAGENET, Normalisation, cubic, filter_weights
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.models.stacks import Stack

START = normal(0.02)

# The names that published files keep; transformers 5 shows others on its modules.
DINOV2_NAMES = {
    "class_embedding": Published("embeddings.cls_token"),
    "mask_embedding": Published("embeddings.mask_token"),
    "registers": Published("embeddings.register_tokens"),
    "position_embedding": Published("embeddings.position_embeddings"),
    "patch_embedding": "embeddings.patch_embeddings.projection",
    "blocks.*.norm_attention": "encoder.layer.*.norm1",
    "blocks.*.query": "encoder.layer.*.attention.attention.query",
    "blocks.*.key": "encoder.layer.*.attention.attention.key",
    "blocks.*.value": "encoder.layer.*.attention.attention.value",
    "blocks.*.attention_out": "encoder.layer.*.attention.output.dense",
    "blocks.*.scale_attention": Published("encoder.layer.*.layer_scale1.lambda1"),
    "blocks.*.norm_mlp": "encoder.layer.*.norm2",
    "blocks.*.mlp.linear_1": "encoder.layer.*.mlp.fc1",
    "blocks.*.mlp.linear_2": "encoder.layer.*.mlp.fc2",
    "blocks.*.mlp.gate_and_value": "encoder.layer.*.mlp.weights_in",
    "blocks.*.mlp.out": "encoder.layer.*.mlp.weights_out",
    "blocks.*.scale_mlp": Published("encoder.layer.*.layer_scale2.lambda1"),
    "norm": "layernorm",
}


class Mlp(nnx.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, width, mlp_width, *, rngs: nnx.Rngs):
        self.linear_1 = Linear(width, mlp_width, axes=("embed", "mlp"), kernel_init=START, rngs=rngs)
        self.linear_2 = Linear(mlp_width, width, axes=("mlp", "embed"), kernel_init=START, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear_2(jax.nn.gelu(self.linear_1(x), approximate=False))


class SwiGlu(nnx.Module):
    """A linear map of values times the SiLU of their gates (Shazeer 2020)."""

    def __init__(self, width, mlp_width, *, rngs: nnx.Rngs):
        self.gate_and_value = Linear(width, 2 * mlp_width, axes=("embed", "mlp"), kernel_init=START, rngs=rngs)
        self.out = Linear(mlp_width, width, axes=("mlp", "embed"), kernel_init=START, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, value = jnp.split(self.gate_and_value(x), 2, axis=-1)
        return self.out(jax.nn.silu(gate) * value)


MLPS = {"gelu": Mlp, "swiglu": SwiGlu}


@dataclass(frozen=True)
class Dinov2Config:
    """Sizes; the defaults are those of ViT-B/14. `image_size` is the one that has a position embedding per patch.

    `mlp_width` counts what the block's second linear map reads, `normalisation` is what pictures have gone through.
    `scanned` says how the blocks run, see `Stack.run`. Raises InputError for an unknown kind of MLP.
    """

    image_size: int = 518
    patch_size: int = 14
    width: int = 768
    heads: int = 12
    blocks: int = 12
    mlp_width: int = 3072
    mlp: str = "gelu"
    registers: int = 0
    normalisation: Normalisation = IMAGENET
    scanned: bool = False

    def __post_init__(self):
        check_name("mlp", self.mlp, MLPS)


# The published sizes.
DINOV2_SIZES = {
    "ViT-S/14": Dinov2Config(width=384, heads=6, mlp_width=1536),
    "ViT-B/14": Dinov2Config(),
    "ViT-L/14": Dinov2Config(width=1024, heads=16, blocks=24, mlp_width=4096),
    "ViT-g/14": Dinov2Config(width=1536, heads=24, blocks=40, mlp_width=4096, mlp="swiglu", scanned=True),
}
# Each of them is also published with 4 registers.
DINOV2_SIZES |= {f"{size}+registers": replace(config, registers=4) for size, config in DINOV2_SIZES.items()}
DINOV2_SIZES[STORYBOOK] = Dinov2Config(
    image_size=40, patch_size=8, width=128, heads=4, blocks=3, mlp_width=512, normalisation=CENTRED
)


class Dinov2Encoding(NamedTuple):
    """`tokens` f32[b, 1 + patches, width], normalised: class token, then patches row by row, registers left out.

    `pooled` f32[b, width] is the class token.
    """

    tokens: jax.Array
    pooled: jax.Array


class Dinov2Block(nnx.Module):
    """Attention, then an MLP, each on normalised input, scaled per channel and added to it."""

    def __init__(self, config: Dinov2Config, *, rngs: nnx.Rngs):
        width, self.heads = config.width, config.heads
        self.norm_attention = LayerNorm(width)
        self.query, self.key, self.value = (
            Linear(width, width, axes=("embed", "heads"), kernel_init=START, rngs=rngs) for _ in range(3)
        )
        self.attention_out = Linear(width, width, axes=("heads", "embed"), kernel_init=START, rngs=rngs)
        self.scale_attention = nnx.Param(jnp.ones(width), axes=(None,))
        self.norm_mlp = LayerNorm(width)
        self.mlp = MLPS[config.mlp](width, config.mlp_width, rngs=rngs)
        self.scale_mlp = nnx.Param(jnp.ones(width), axes=(None,))

    def __call__(self, x: jax.Array) -> jax.Array:
        normed = self.norm_attention(x)
        q, k, v = (layer(normed).reshape(*x.shape[:-1], self.heads, -1) for layer in (self.query, self.key, self.value))
        x = x + self.attention_out(attend(q, k, v).reshape(x.shape)) * self.scale_attention.astype(x.dtype)
        return x + self.mlp(self.norm_mlp(x)) * self.scale_mlp.astype(x.dtype)


class Dinov2Encoder(nnx.Module):
    """Patches, a class token that stands for the picture, and registers that the others may write to."""

    def __init__(self, config: Dinov2Config, *, rngs: nnx.Rngs):
        self.config = config
        width, patch = config.width, config.patch_size
        positions = 1 + (config.image_size // patch) ** 2

        def tokens(count):
            return nnx.Param(START(rngs.params(), (1, count, width)), axes=(None, None, "embed"))

        self.class_embedding, self.position_embedding = tokens(1), tokens(positions)
        # Stands for hidden patches in DINOv2's own training; only kept, so that files stay whole.
        self.mask_embedding = nnx.Param(jnp.zeros((1, width)), axes=(None, "embed"))
        self.registers = tokens(config.registers) if config.registers else None
        axes = (None, None, None, "embed")
        self.patch_embedding = Conv(3, width, patch, stride=patch, axes=axes, kernel_init=START, rngs=rngs)
        self.blocks = Stack(lambda rngs: Dinov2Block(config, rngs=rngs), config.blocks, rngs=rngs)
        self.norm = LayerNorm(width)

    def __call__(self, images: jax.Array) -> Dinov2Encoding:
        """`images` f32[b, h, w, 3], already normalised. Raises InputError unless h and w are multiples of the patch."""
        self._check(images.shape[1:])
        patches = self.patch_embedding(images)
        batch, rows, columns, width = patches.shape
        patches = patches + self._positions(rows, columns)
        first = self.class_embedding[...] + self.position_embedding[:, :1]
        apart = [first] if self.registers is None else [first, self.registers[...]]
        apart = jnp.concatenate(apart, axis=1)
        apart = jnp.broadcast_to(apart, (batch, *apart.shape[1:]))
        x = jnp.concatenate([apart, patches.reshape(batch, -1, width)], axis=1)
        x, _ = self.blocks.run(lambda block, x, _: (block(x), None), x, scanned=self.config.scanned)
        x = self.norm(x)
        return Dinov2Encoding(jnp.concatenate([x[:, :1], x[:, apart.shape[1] :]], axis=1), x[:, 0])

    def _check(self, shape):
        patch = self.config.patch_size
        if len(shape) == 3 and shape[2] == 3 and all(side >= patch and side % patch == 0 for side in shape[:2]):
            return
        rule = f"this vision encoder sees [h, w, 3], h and w multiples of its patch, {patch}"
        raise InputError(f"images of shape {list(shape)}", rule, "resize or crop them")

    def _positions(self, rows, columns):
        """Position embeddings of a grid of patches, f32[rows, columns, width]."""
        side = self.config.image_size // self.config.patch_size
        grid = self.position_embedding[0, 1:].reshape(side, side, -1)
        antialias = bool(self.config.registers)  # the models with registers are published so, those without are not
        down, across = (resampling(side, size, antialias) for size in (rows, columns))
        # positions differ by little: bfloat16 products, some accelerators' default, would blur them
        return jnp.einsum("ri,cj,ijw->rcw", down, across, grid, precision=jax.lax.Precision.HIGHEST)


def resampling(old: int, new: int, antialias: bool) -> np.ndarray:
    """The matrix f32[new, old] of bicubic resampling along one axis, as torch's `interpolate` does it.

    Plain: Keys' kernel with a = -0.75, edge values repeated. With `antialias`: a = -0.5, widened where the axis
    shrinks, cut off at the edges.
    """
    if antialias:
        return filter_weights(old, new, "bicubic").astype(np.float32)
    centres = (np.arange(new)[:, None] + 0.5) * (old / new) - 0.5
    taps = np.arange(-2, old + 2)  # two beyond each edge
    weights = cubic(np.abs(taps - centres), -0.75) @ np.eye(old)[taps.clip(0, old - 1)]
    return weights.astype(np.float32)
