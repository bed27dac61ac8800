"""The vision tower of Qwen2-VL (Wang et al. 2024): it sees pictures of any size as patches, four to a token."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.core.mesh import spread_tokens
from narrative_jax.models.attention import attend
from narrative_jax.models.clip import ACTIVATIONS, normal
from narrative_jax.models.layers import LayerNorm, Linear, half_rotation, rotate_halves
from narrative_jax.models.stacks import Stack

FRAMES = 2  # that a patch is of; a picture is shown as equal ones
START = normal(0.02)
THETA = 10_000.0


@dataclass(frozen=True)
class VisionTowerConfig:
    """Sizes; the defaults are those of every published model. `merge` patches a side become one token."""

    patch_size: int = 14
    merge: int = 2
    width: int = 1280
    heads: int = 16
    blocks: int = 32
    mlp_width: int = 5120

    @property
    def side(self) -> int:
        """Pixels that pictures' sides are multiples of."""
        return self.patch_size * self.merge


TOWER = VisionTowerConfig()


class VisionBlock(nnx.Module):
    """Attention, then an MLP, each on normalised input and added to it."""

    def __init__(self, config: VisionTowerConfig, *, rngs: nnx.Rngs):
        width, self.heads = config.width, config.heads
        self.norm_attention = LayerNorm(width)
        self.qkv = Linear(width, 3 * width, axes=("embed", "heads"), kernel_init=START, rngs=rngs)
        self.attention_out = Linear(width, width, axes=("heads", "embed"), kernel_init=START, rngs=rngs)
        self.norm_mlp = LayerNorm(width)
        self.mlp_in = Linear(width, config.mlp_width, axes=("embed", "mlp"), kernel_init=START, rngs=rngs)
        self.mlp_out = Linear(config.mlp_width, width, axes=("mlp", "embed"), kernel_init=START, rngs=rngs)

    def __call__(self, x: jax.Array, rotation: jax.Array, mask: jax.Array | None, attention: str) -> jax.Array:
        qkv = self.qkv(self.norm_attention(x)).reshape(*x.shape[:2], 3, self.heads, -1)
        q, k, v = (part.squeeze(2) for part in jnp.split(qkv, 3, axis=2))
        attended = attend(rotate_halves(q, rotation), rotate_halves(k, rotation), v, mask, attention)
        x = x + self.attention_out(attended.reshape(x.shape))
        x = x + self.mlp_out(ACTIVATIONS["quick_gelu"](self.mlp_in(self.norm_mlp(x))))
        return spread_tokens(x)


class VisionTower(nnx.Module):
    """Patches that see those of their own picture, merged into tokens of `width` numbers."""

    def __init__(self, config: VisionTowerConfig, width: int, *, rngs: nnx.Rngs):
        self.config = config
        patch, merged = config.patch_size, config.merge**2 * config.width
        kernel = START(rngs.params(), (3, FRAMES, patch, patch, config.width))
        self.patch_embedding = nnx.Param(kernel, axes=(None, None, None, None, "embed"))
        self.blocks = Stack(lambda rngs: VisionBlock(config, rngs=rngs), config.blocks, rngs=rngs)
        self.norm = LayerNorm(config.width)
        self.merge_in = Linear(merged, merged, axes=("embed", "mlp"), kernel_init=START, rngs=rngs)
        self.merge_out = Linear(merged, width, axes=("mlp", "embed"), kernel_init=START, rngs=rngs)

    def __call__(
        self, patches: jax.Array, cells: jax.Array, pictures: jax.Array | None, attention: str, **ways
    ) -> jax.Array:
        """f32[b, p / merge², width] of patches f32[b, p, 3 · patch_size²], those merged into one side by side.

        `cells` i32[b, p, 2] are their rows and columns, `pictures` i32[b, p] says which of them belong together, None
        that all of a row do; `ways` to run the blocks are those of `Stack.run`.
        """
        kernel = self.patch_embedding[...].sum(1)  # of equal frames one is enough
        x = spread_tokens(patches @ kernel.reshape(-1, kernel.shape[-1]).astype(patches.dtype))
        rotation = self._rotation(cells)
        mask = None if pictures is None else pictures[:, None, :, None] == pictures[:, None, None, :]
        x, _ = self.blocks.run(lambda block, x, _: (block(x, rotation, mask, attention), None), x, **ways)
        x = self.norm(x).reshape(len(x), -1, self.merge_in.kernel.shape[0])
        return self.merge_out(jax.nn.gelu(self.merge_in(x), approximate=False))

    def _rotation(self, cells):
        """A half of the pairs of channels turns by the row, the other by the column, at the same frequencies."""
        each = self.config.width // self.config.heads // 4
        frequencies = THETA ** -(np.arange(each) / each)
        return half_rotation(cells, np.repeat((0, 1), each), np.tile(frequencies, 2))
