"""Pictures to latents and back; a generator's denoiser sees latents cut into patches, one token each.

Worlds that are small have their pixels as latents. FLUX's autoencoder is that of latent diffusion (Rombach et al.
2022), trained with a KL term; it is used as published, so that of the posterior only the mean is taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from narrative_jax.core.types import Params
from narrative_jax.models.attention import attend
from narrative_jax.models.checkpoints import Names
from narrative_jax.models.layers import Conv, GroupNorm, Linear
from narrative_jax.models.network import abstract, below, split, under

ENCODER, DECODER = "encoder", "decoder"  # the parts of an autoencoder's weights

_BLOCK = {"norm_1": "norm1", "conv_1": "conv1", "norm_2": "norm2", "conv_2": "conv2", "shortcut": "conv_shortcut"}
_ATTENTION = {"norm": "group_norm", "to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}


def _names(part, levels, resized):
    yield from ((f"{part}.{each}", f"{part}.{each}") for each in ("conv_in", "conv_out"))
    yield f"{part}.norm_out", f"{part}.conv_norm_out"
    yield f"{part}.levels.*.resize.conv", f"{part}.{levels}.*.{resized}.0.conv"
    for ours, theirs in _BLOCK.items():
        yield f"{part}.levels.*.blocks.*.{ours}", f"{part}.{levels}.*.resnets.*.{theirs}"
        yield f"{part}.middle.blocks.*.{ours}", f"{part}.mid_block.resnets.*.{theirs}"
    for ours, theirs in _ATTENTION.items():
        yield f"{part}.middle.attention.{ours}", f"{part}.mid_block.attentions.0.{theirs}"


# diffusers' names, vae/diffusion_pytorch_model.safetensors.
KL_NAMES = {**dict(_names(ENCODER, "down_blocks", "downsamplers")), **dict(_names(DECODER, "up_blocks", "upsamplers"))}


class Autoencoder(Protocol):
    """Latents of a `cell` of pixels' side each; `names`, `axes` and `shapes` are of its weights, "encoder.…" and
    "decoder.…", of which each method takes at least the part that it uses.
    """

    cell: int
    names: Names
    axes: Mapping[str, tuple]
    shapes: Mapping[str, jax.ShapeDtypeStruct]

    def random(self, seed: int) -> Params:
        """Weights of an untrained one."""

    def encode(self, params: Params, images: np.ndarray, patch: int) -> np.ndarray:
        """Latent tokens f32[b, n, c] of images f32[b, h, w, 3] in [-1, 1] (host)."""

    def decode(self, params: Params, tokens: jax.Array, patch: int, height: int) -> jax.Array:
        """Images f32[b, h, w, 3] of latent tokens, see `generators.base.Generator`; `height` in latent cells."""


@dataclass(frozen=True)
class PixelAutoencoder:
    """Latents are the pixels themselves, without weights: for worlds so small that there is nothing to compress."""

    cell: ClassVar[int] = 1
    names: ClassVar[Names] = {}
    axes: ClassVar[Mapping[str, tuple]] = {}
    shapes: ClassVar[Mapping[str, jax.ShapeDtypeStruct]] = {}

    def random(self, seed: int) -> Params:
        """None."""
        return {}

    def encode(self, params: Params, images: np.ndarray, patch: int) -> np.ndarray:
        """See `Autoencoder`."""
        return np.asarray(to_tokens(images, patch))

    def decode(self, params: Params, tokens: jax.Array, patch: int, height: int) -> jax.Array:
        """See `Autoencoder`."""
        return from_tokens(tokens, patch, height)


class ResidualBlock(nnx.Module):
    """Two convolutions, each of normalised input, added to the input, through a shortcut where widths differ."""

    def __init__(self, size_in, size_out, groups, *, rngs: nnx.Rngs):
        self.norm_1, self.norm_2 = GroupNorm(size_in, groups), GroupNorm(size_out, groups)
        self.conv_1 = Conv(size_in, size_out, 3, padding=1, rngs=rngs)
        self.conv_2 = Conv(size_out, size_out, 3, padding=1, rngs=rngs)
        self.shortcut = Conv(size_in, size_out, 1, rngs=rngs) if size_in != size_out else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv_1(jax.nn.silu(self.norm_1(x)))
        y = self.conv_2(jax.nn.silu(self.norm_2(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class PixelAttention(nnx.Module):
    """Attention of each place to all, with one head, of normalised input and added to it."""

    def __init__(self, size, groups, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(size, groups)
        self.to_q, self.to_k, self.to_v, self.to_out = (Linear(size, size, rngs=rngs) for _ in range(4))

    def __call__(self, x: jax.Array) -> jax.Array:
        normed = self.norm(x).reshape(len(x), -1, 1, x.shape[-1])
        return x + self.to_out(attend(self.to_q(normed), self.to_k(normed), self.to_v(normed))).reshape(x.shape)


class Middle(nnx.Module):
    """What sees the whole picture: attention between two blocks."""

    def __init__(self, size, groups, *, rngs: nnx.Rngs):
        self.blocks = nnx.List([ResidualBlock(size, size, groups, rngs=rngs) for _ in range(2)])
        self.attention = PixelAttention(size, groups, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        first, last = self.blocks
        return last(self.attention(first(x)))


class Halving(nnx.Module):
    """To half the height and width; an odd edge falls off."""

    def __init__(self, size, *, rngs: nnx.Rngs):
        self.conv = Conv(size, size, 3, stride=2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))))


class Doubling(nnx.Module):
    """To twice the height and width."""

    def __init__(self, size, *, rngs: nnx.Rngs):
        self.conv = Conv(size, size, 3, padding=1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x.repeat(2, 1).repeat(2, 2))


class Level(nnx.Module):
    """Blocks on pictures of one size, then what `resize` builds of their width, None for nothing."""

    def __init__(self, size_in, size_out, count, groups, resize, *, rngs: nnx.Rngs):
        sizes = pairwise((size_in, *[size_out] * count))
        self.blocks = nnx.List([ResidualBlock(*pair, groups, rngs=rngs) for pair in sizes])
        self.resize = resize and resize(size_out, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return self.resize(x) if self.resize else x


def _levels(widths, count, groups, resize, rngs):
    """One for each width, resizing but for the last."""
    sizes = pairwise((widths[0], *widths))
    kinds = [resize] * (len(widths) - 1) + [None]
    return nnx.List([Level(*pair, count, groups, kind, rngs=rngs) for pair, kind in zip(sizes, kinds, strict=True)])


class KLEncoder(nnx.Module):
    """Images f32[b, h, w, 3] in [-1, 1] -> the posterior's mean f32[b, h / cell, w / cell, channels]."""

    def __init__(self, config: "KLAutoencoder", *, rngs: nnx.Rngs):
        self.config, widths = config, config.widths
        self.conv_in = Conv(3, widths[0], 3, padding=1, rngs=rngs)
        self.levels = _levels(widths, config.blocks, config.groups, Halving, rngs)
        self.middle = Middle(widths[-1], config.groups, rngs=rngs)
        self.norm_out = GroupNorm(widths[-1], config.groups)
        self.conv_out = Conv(widths[-1], 2 * config.channels, 3, padding=1, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """See the class."""
        x = self.conv_in(images.astype(self.config.compute))
        for level in self.levels:
            x = level(x)
        x = self.conv_out(jax.nn.silu(self.norm_out(self.middle(x))))
        return x[..., : self.config.channels].astype(jnp.float32)  # the others are the logarithms of variances


class KLDecoder(nnx.Module):
    """What the encoder makes of images f32[b, h / cell, w / cell, channels] -> such images f32[b, h, w, 3]."""

    def __init__(self, config: "KLAutoencoder", *, rngs: nnx.Rngs):
        self.config, widths = config, config.widths[::-1]
        self.conv_in = Conv(config.channels, widths[0], 3, padding=1, rngs=rngs)
        self.middle = Middle(widths[0], config.groups, rngs=rngs)
        self.levels = _levels(widths, config.blocks + 1, config.groups, Doubling, rngs)
        self.norm_out = GroupNorm(widths[-1], config.groups)
        self.conv_out = Conv(widths[-1], 3, 3, padding=1, rngs=rngs)

    def __call__(self, latents: jax.Array) -> jax.Array:
        """See the class."""
        x = self.middle(self.conv_in(latents.astype(self.config.compute)))
        for level in self.levels:
            x = level(x)
        return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(jnp.float32)


_HALVES = {ENCODER: KLEncoder, DECODER: KLDecoder}


@dataclass(frozen=True)
class KLAutoencoder:
    """See `Autoencoder`. Sizes are those of FLUX.1's; `widths` are per level, and each but the last halves pictures.

    A level has `blocks` on the way to latents and one more on the way back. Latents are (mean - shift) · scale; they
    and pictures are float32, between them it computes in `compute`. Weights are replicated: of FLUX.1's they are
    0.2 GB, and pictures, which are more, keep the axes of the mesh to themselves.
    """

    names: ClassVar[Names] = KL_NAMES

    channels: int = 16
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    scale: float = 0.3611
    shift: float = 0.1159
    compute: str = "float32"

    @property
    def cell(self) -> int:
        """See `Autoencoder`."""
        return 2 ** (len(self.widths) - 1)

    @cached_property
    def axes(self) -> dict[str, tuple]:
        """See `Autoencoder`."""
        return _joined({part: network.axes for part, (network, _) in self._halves.items()})

    @cached_property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """See `Autoencoder`."""
        return _joined({part: shapes for part, (_, shapes) in self._halves.items()})

    def random(self, seed: int) -> Params:
        """See `Autoencoder`."""

        def draw():
            return _joined({part: split(kind(self, rngs=nnx.Rngs(seed)))[1] for part, kind in _HALVES.items()})

        return jax.jit(draw)()

    def encode(self, params: Params, images: np.ndarray, patch: int) -> np.ndarray:
        """See `Autoencoder`; one at a time, since a large one fills a device."""
        encoding = below(ENCODER, params)
        return np.concatenate([np.asarray(self._encode(encoding, image[None], patch)) for image in images])

    def decode(self, params: Params, tokens: jax.Array, patch: int, height: int) -> jax.Array:
        """See `Autoencoder`."""
        latents = from_tokens(tokens, patch, height) / self.scale + self.shift
        return self._halves[DECODER][0].bind(below(DECODER, params))(latents)

    @cached_property
    def _halves(self):
        return {part: abstract(lambda kind=kind: kind(self, rngs=nnx.Rngs(0))) for part, kind in _HALVES.items()}

    @cached_property
    def _encode(self):
        def run(params, images, patch):
            mean = self._halves[ENCODER][0].bind(params)(images)
            return to_tokens((mean - self.shift) * self.scale, patch)

        return jax.jit(run, static_argnums=2)


def _joined(parts):
    return {name: value for part, tree in parts.items() for name, value in under(part, tree).items()}


def to_tokens(latents: jax.Array, patch: int) -> jax.Array:
    """Latents f32[b, h, w, c] as tokens f32[b, h/p · w/p, p · p · c], row by row; channels outermost, as in FLUX."""
    return rearrange(latents, "b (h p) (w q) c -> b (h w) (c p q)", p=patch, q=patch)


def from_tokens(tokens: jax.Array, patch: int, height: int) -> jax.Array:
    """The latents f32[b, h, w, c] again; `height` in latent cells."""
    return rearrange(tokens, "b (h w) (c p q) -> b (h p) (w q) c", h=height // patch, p=patch, q=patch)
