"""The network that tells faces apart: ArcFace's IResNet (Deng et al. 2019, Duta et al. 2020), for inference.

Weights are those of insightface's backbones. Batch norms hold the statistics of training as weights and never change
them; dropout, which only training has, is left out.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from narrative_jax.core.errors import InputError
from narrative_jax.models.layers import BatchNorm, Conv, Linear
from narrative_jax.models.preprocessing import CENTRED, Normalisation
from narrative_jax.models.shipped import STORYBOOK

STAGES = ("layer1", "layer2", "layer3", "layer4")  # as published files count them

_BLOCK = {
    "norm_1": "bn1",
    "conv_1": "conv1",
    "norm_2": "bn2",
    "activation": "prelu",
    "conv_2": "conv2",
    "norm_3": "bn3",
    "shortcut": "downsample.0",
    "norm_shortcut": "downsample.1",
}
IRESNET_NAMES = {
    "stem": "conv1",
    "norm_stem": "bn1",
    "activation": "prelu",
    **{f"stages.{stage}.*.{ours}": f"{stage}.*.{theirs}" for stage in STAGES for ours, theirs in _BLOCK.items()},
    "norm": "bn2",
    "out": "fc",
    "norm_out": "features",
}


@dataclass(frozen=True)
class IResNetConfig:
    """Sizes; the defaults are those of IResNet-50. `widths` and `blocks` are per stage, and each stage halves.

    `normalisation` is what pictures have gone through.
    """

    image_size: int = 112
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    blocks: tuple[int, int, int, int] = (3, 4, 14, 3)
    embedding: int = 512
    normalisation: Normalisation = CENTRED

    @property
    def patch_size(self) -> int:
        """Pixels on a side that one place of the last features stands for."""
        return 2 ** len(self.widths)


IRESNET_SIZES = {
    "IResNet-50": IResNetConfig(),
    "IResNet-100": IResNetConfig(blocks=(3, 13, 30, 3)),
    STORYBOOK: IResNetConfig(image_size=40, widths=(16, 32, 64, 128), blocks=(1, 1, 1, 1), embedding=128),
}


class PRelu(nnx.Module):
    """Negative values times a slope per channel (He et al. 2015)."""

    def __init__(self, size):
        self.slope = nnx.Param(jnp.full(size, 0.25, jnp.float32), axes=(None,))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x < 0, x * self.slope.astype(x.dtype), x)


class IResNetBlock(nnx.Module):
    """Two convolutions among norms, added to the input; `stride` 2 halves both, the input through a shortcut."""

    def __init__(self, size_in, size_out, stride, *, rngs: nnx.Rngs):
        self.norm_1 = BatchNorm(size_in)
        self.conv_1 = Conv(size_in, size_out, 3, padding=1, bias=False, rngs=rngs)
        self.norm_2 = BatchNorm(size_out)
        self.activation = PRelu(size_out)
        self.conv_2 = Conv(size_out, size_out, 3, stride=stride, padding=1, bias=False, rngs=rngs)
        self.norm_3 = BatchNorm(size_out)
        self.shortcut = Conv(size_in, size_out, 1, stride=stride, bias=False, rngs=rngs) if stride > 1 else None
        self.norm_shortcut = BatchNorm(size_out) if stride > 1 else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.activation(self.norm_2(self.conv_1(self.norm_1(x))))
        y = self.norm_3(self.conv_2(y))
        return y + (x if self.shortcut is None else self.norm_shortcut(self.shortcut(x)))


class FaceEncoding(NamedTuple):
    """`pooled` f32[b, embedding], not of unit length."""

    pooled: jax.Array


class IResNet(nnx.Module):
    """A face as a vector whose direction says whose it is."""

    def __init__(self, config: IResNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        size_in, side = config.widths[0], config.image_size
        self.stem = Conv(3, size_in, 3, padding=1, bias=False, rngs=rngs)
        self.norm_stem, self.activation = BatchNorm(size_in), PRelu(size_in)
        self.stages = nnx.Dict()
        for stage, size_out, count in zip(STAGES, config.widths, config.blocks, strict=True):
            first = IResNetBlock(size_in, size_out, 2, rngs=rngs)
            rest = [IResNetBlock(size_out, size_out, 1, rngs=rngs) for _ in range(count - 1)]
            self.stages[stage] = nnx.List([first, *rest])
            size_in, side = size_out, -(-side // 2)
        self.norm = BatchNorm(size_in)
        self.out = Linear(size_in * side**2, config.embedding, rngs=rngs)
        self.norm_out = BatchNorm(config.embedding)

    def __call__(self, images: jax.Array) -> FaceEncoding:
        """Of aligned faces f32[b, h, w, 3] in [-1, 1].

        Raises InputError for pictures of another size than the config's.
        """
        size = self.config.image_size
        if images.shape[1:] != (size, size, 3):
            given = f"images of shape {list(images.shape[1:])}"
            raise InputError(given, f"this face encoder sees [{size}, {size}, 3]", "align the faces to this size")
        x = self.activation(self.norm_stem(self.stem(images)))
        for stage in STAGES:
            for block in self.stages[stage]:
                x = block(x)
        x = self.norm(x).transpose(0, 3, 1, 2)  # the published `out` reads channel by channel
        return FaceEncoding(self.norm_out(self.out(x.reshape(len(x), -1))))
