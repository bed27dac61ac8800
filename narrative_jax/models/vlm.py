"""Qwen2-VL (Wang et al. 2024): a language model that sees pictures among its words.

It reads prompts of one length, padded on either side, and keeps their keys and values, so that what is said after
them, in one way or several, needs no second look.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.core.errors import check_name
from narrative_jax.core.mesh import apply_spread, spread_tokens
from narrative_jax.models.attention import ATTENTIONS, XLA, attend
from narrative_jax.models.layers import TYPES, Linear, RMSNorm, half_rotation, rotate_halves
from narrative_jax.models.stacks import KEPT, Stack
from narrative_jax.models.vlm_vision import START, TOWER, VisionTower, VisionTowerConfig

THETA = 1_000_000.0
NOTHING = -1  # where no picture is
_TOKENS = (3, 2)  # which axis of a block's keys, and of its values, is of tokens


@dataclass(frozen=True)
class VlmConfig:
    """Sizes; `heads` of queries share `key_heads` of keys and values. Where `tied`, words go out as they came in.

    `sections` are the pairs of a head's channels that turn by time, row and column. `scanned` and `kept` say how
    blocks run, see `Stack.run`; `compute` is the type in which tokens pass through, `attention` as `attend` has it.
    """

    vocab_size: int
    width: int
    heads: int
    key_heads: int
    blocks: int
    mlp_width: int
    tied: bool
    sections: tuple[int, int, int] = (16, 24, 24)
    vision: VisionTowerConfig = TOWER
    scanned: bool = False
    kept: str = "all"
    compute: str = "float32"
    attention: str = "xla"

    def __post_init__(self):
        check_name("kept", self.kept, KEPT)
        check_name("compute", self.compute, TYPES)
        check_name("attention", self.attention, ATTENTIONS)

    @property
    def ways(self) -> Mapping:
        """How stacks of blocks run."""
        return {"scanned": self.scanned, "kept": self.kept}


class VlmInputs(NamedTuple):
    """What is read: tokens i32[b, n], and which of them are there, bool[b, n]; the others are padding.

    `positions` i32[b, n, 3] are each token's time, row and column. `shown` i32[b, n] says which of the row's merged
    patches stands in a token's place, NOTHING for words. `patches` f32[b, p, 3 · patch_size²], `cells` i32[b, p, 2] and
    `pictures` i32[b, p] are what `VisionTower` sees of all pictures of a row, one after the other, then padding. Of k
    pictures of one size patches and cells may be [b, k, p, ...]: then no patch looks for its own among all.
    """

    tokens: jax.Array
    mask: jax.Array
    positions: jax.Array
    shown: jax.Array
    patches: jax.Array
    cells: jax.Array
    pictures: jax.Array


class Cache(NamedTuple):
    """What was read: keys [blocks, b, key_heads, d, m] and values [blocks, b, key_heads, m, d] of m tokens.

    A row may go on in several branches, which share what was read before they part and do not see each other: `seen`
    bool[b, branches, m] says which tokens each of them sees, `position` i32[b, branches] is that of its next one. Keys
    and values lie so that products with a few queries need no transposed copy. While words are written both are lists,
    each block's its own, see `Vlm.room_in`.
    """

    keys: jax.Array
    values: jax.Array
    seen: jax.Array
    position: jax.Array

    def branched(self, times: int) -> "Cache":
        """With each branch so many times side by side."""
        seen, position = (jnp.repeat(x, times, axis=1) for x in (self.seen, self.position))
        return self._replace(seen=seen, position=position)

    def longer(self, keys: jax.Array, values: jax.Array, mask: jax.Array, position: jax.Array) -> "Cache":
        """With the keys and values of tokens that came after, each branch's n, branch by branch, of which `mask`
        bool[b, branches, n] are no padding.
        """
        keys, values = (
            jnp.concatenate(x, 1 + axis)  # behind that of blocks
            for *x, axis in zip((self.keys, self.values), (keys, values), _TOKENS, strict=True)
        )
        return Cache(keys, values, jnp.concatenate([self.seen, _apart(mask)], axis=2), position)


class DecoderBlock(nnx.Module):
    """Grouped-query attention, then a gated MLP, each on normalised input and added to it."""

    def __init__(self, config: VlmConfig, *, rngs: nnx.Rngs):
        width, mlp_width, self.size = config.width, config.mlp_width, config.width // config.heads
        keys = config.key_heads * self.size
        into, out = {"axes": ("embed", "heads"), "kernel_init": START}, {"bias": False, "kernel_init": START}
        self.norm_attention = RMSNorm(width)
        self.query = Linear(width, width, **into, rngs=rngs)
        self.key, self.value = (Linear(width, keys, **into, rngs=rngs) for _ in range(2))
        self.attention_out = Linear(width, width, axes=("heads", "embed"), **out, rngs=rngs)
        self.norm_mlp = RMSNorm(width)
        self.mlp_gate, self.mlp_in = (
            Linear(width, mlp_width, axes=("embed", "mlp"), **out, rngs=rngs) for _ in range(2)
        )
        self.mlp_out = Linear(mlp_width, width, axes=("mlp", "embed"), **out, rngs=rngs)

    def __call__(self, x, rotation, mask, before, attention, place=None):
        """Hidden states after the block, and keys and values of these tokens; `before` are those of earlier ones.

        With a `place` for these among those, all keys and values.
        """
        normed = self.norm_attention(x)
        q, k, v = (layer(normed).reshape(*x.shape[:2], -1, self.size) for layer in (self.query, self.key, self.value))
        found = rotate_halves(k, rotation).transpose(0, 2, 3, 1), v.swapaxes(1, 2)
        seen = found
        if before is not None and place is None:
            seen = [jnp.concatenate(x, axis) for *x, axis in zip(before, found, _TOKENS, strict=True)]
        elif before is not None:
            put = jax.lax.dynamic_update_slice_in_dim
            seen = found = tuple(put(*x, place, axis) for *x, axis in zip(before, found, _TOKENS, strict=True))
        keys, values = seen[0].transpose(0, 3, 1, 2), seen[1].swapaxes(1, 2)
        x = x + self.attention_out(attend(rotate_halves(q, rotation), keys, values, mask, attention).reshape(x.shape))
        normed = self.norm_mlp(x)
        x = x + self.mlp_out(jax.nn.silu(self.mlp_gate(normed)) * self.mlp_in(normed))
        return spread_tokens(x), found


class Vlm(nnx.Module):
    """The vision tower, the language model, and the table of words that it reads and writes by."""

    def __init__(self, config: VlmConfig, *, rngs: nnx.Rngs):
        self.config = config

        def table():
            return nnx.Param(START(rngs.params(), (config.vocab_size, config.width)), axes=("vocab", "embed"))

        self.vision = VisionTower(config.vision, config.width, rngs=rngs)
        self.token_embedding = table()
        self.blocks = Stack(lambda rngs: DecoderBlock(config, rngs=rngs), config.blocks, rngs=rngs)
        self.norm = RMSNorm(config.width)
        self.out = None if config.tied else table()

    def __call__(self, inputs: VlmInputs) -> jax.Array:
        """Hidden states f32[b, n, width] of all tokens, which `logits` and other heads read."""
        hidden, _ = self._through(self._embedded(inputs), inputs.positions, _so_far(inputs.mask))
        return hidden

    def see(self, patches: jax.Array, cells: jax.Array, pictures: jax.Array | None = None) -> jax.Array:
        """What stands for pictures among words, f32[b, p / merge², width]; see `VisionTower`."""
        config = self.config
        return self.vision(patches.astype(config.compute), cells, pictures, config.attention, **config.ways)

    def read(self, inputs: VlmInputs) -> tuple[jax.Array, Cache]:
        """Hidden states f32[b, n, width], and what `read_on` goes on from."""
        hidden, found = self._through(self._embedded(inputs), inputs.positions, _so_far(inputs.mask))
        return hidden, Cache(*found, inputs.mask[:, None], inputs.positions.max((1, 2))[:, None] + 1)

    def read_on(self, tokens: jax.Array, mask: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """As `read`, of words i32[b, branches, n] that come after what was read; where `mask` is 0 is padding.

        Hidden states are f32[b, branches, n, width].
        """
        hidden, found, position = self.step(tokens, mask, cache)
        return hidden, cache.longer(*found, mask, position)

    def step(self, tokens: jax.Array, mask: jax.Array, cache: Cache) -> tuple[jax.Array, tuple, jax.Array]:
        """As `read_on`, but keys and values of these tokens alone, and the next position i32[b, branches]."""
        rows, branches, n = tokens.shape
        places = cache.position[..., None] + jnp.maximum(jnp.cumsum(mask, axis=2) - 1, 0)
        seen = jnp.concatenate([jnp.repeat(cache.seen, n, axis=1), _so_far_apart(mask)], axis=2)
        words, before = self._words(tokens.reshape(rows, -1)), (cache.keys, cache.values)
        hidden, found = self._through(words, _of_words(places.reshape(rows, -1)), seen, before)
        return hidden.reshape(rows, branches, n, -1), found, cache.position + mask.sum(2)

    def write_on(self, tokens: jax.Array, cache: Cache, place: jax.Array) -> tuple[jax.Array, Cache]:
        """As `read_on`, of one word i32[b, branches] each; hidden states f32[b, branches, width].

        Their keys and values lie side by side from a free place on in what `room_in` made.
        """
        own = _apart(jnp.ones((*tokens.shape, 1), bool))
        seen = jax.lax.dynamic_update_slice_in_dim(cache.seen, own, place, axis=2)
        before = list(zip(cache.keys, cache.values, strict=True))
        hidden, found = self._through(self._words(tokens), _of_words(cache.position), seen, before, place)
        keys, values = map(list, zip(*found, strict=True))
        return hidden, Cache(keys, values, seen, cache.position + 1)

    def room_in(self, cache: Cache, more: int) -> Cache:
        """With free places for so many tokens of each branch, and for each block arrays of its own: they are written
        into where they lie, while a loop over blocks would put all of them together for each word.
        """
        more *= cache.seen.shape[1]

        def longer(x, axis):
            return jnp.pad(x, [(0, more if place == axis else 0) for place in range(x.ndim)])

        keys, values = (
            [longer(of_block, axis) for of_block in x]
            for x, axis in zip((cache.keys, cache.values), _TOKENS, strict=True)
        )
        return Cache(keys, values, longer(cache.seen, 2), cache.position)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits f32[..., vocab_size] of the next token, from hidden states f32[..., width]."""
        table = self.token_embedding if self.out is None else self.out
        return jnp.matmul(hidden, table.astype(hidden.dtype).T, preferred_element_type=jnp.float32)

    def _words(self, tokens):
        return spread_tokens(apply_spread(lambda x: self.token_embedding[x].astype(self.config.compute), tokens))

    def _embedded(self, inputs):
        words, config = self._words(inputs.tokens), self.config
        if not inputs.patches.size:
            return words
        pictures = inputs.pictures if inputs.patches.ndim == 3 else None
        patches, cells = (x.reshape(-1, *x.shape[-2:]) for x in (inputs.patches, inputs.cells))
        seen = self.see(patches, cells, pictures)
        seen, shown = seen.reshape(len(words), -1, config.width), inputs.shown[..., None]
        seen = jnp.take_along_axis(seen, jnp.maximum(shown, 0), axis=1)
        return spread_tokens(jnp.where(shown == NOTHING, words, seen))

    def _through(self, x, positions, seen, before=None, place=None):
        """Hidden states, normalised, and keys and values as in `Cache`; with a `place` for tokens among those `before`
        of all. `seen` bool[b, n, m] says which of all each token sees.
        """
        config = self.config
        pairs = config.width // config.heads // 2
        rotation = half_rotation(positions, np.repeat(range(3), config.sections), THETA ** -(np.arange(pairs) / pairs))
        # Of so few queries there is no square of logits, which is what the others spare.
        attention = config.attention if place is None else XLA

        def body(block, x, before):
            return block(x, rotation, seen[:, None], before, attention, place)

        x, found = self.blocks.run(body, x, before, **config.ways)
        return self.norm(x), found


def last_of(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """Hidden states f32[..., width] of the last token that is no padding, of f32[..., n, width]."""
    last = jnp.where(mask, jnp.arange(mask.shape[-1]), 0).max(-1)
    return jnp.take_along_axis(hidden, last[..., None, None], axis=-2)[..., 0, :]


def _so_far(mask):
    """Which tokens each sees, bool[..., n, n], of those that are there, bool[..., n]."""
    return jnp.tril(jnp.ones((mask.shape[-1],) * 2, bool)) & mask[..., None, :]


def _apart(mask):
    """Which tokens of all branches each branch sees, bool[b, branches, branches · n]: its own, bool[b, branches, n]."""
    branches = mask.shape[1]
    return (jnp.eye(branches, dtype=bool)[..., None] & mask[:, None]).reshape(len(mask), branches, -1)


def _so_far_apart(mask):
    """As `_so_far`, bool[b, branches · n, branches · n], where a token sees none of other branches than its own."""
    rows, branches, n = mask.shape
    own = jnp.eye(branches, dtype=bool)[:, None, :, None] & _so_far(mask)[:, :, :, None]
    return own.reshape(rows, branches * n, branches * n)


def _of_words(places):
    """Positions i32[b, n, 3] of words, whose time, row and column are one, i32[b, n]."""
    return jnp.broadcast_to(places[..., None], (*places.shape, 3))
