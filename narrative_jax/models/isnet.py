"""The network that tells a subject from its background: IS-Net (Qin et al. 2022), which RMBG-1.4 is an instance of.

A U-shaped network whose stages are U-shaped themselves. Weights are those of both's published files, for inference:
batch norms hold the statistics of training as weights.
"""

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from narrative_jax.models.layers import BatchNorm, Conv
from narrative_jax.models.shipped import STORYBOOK

POOLED = {"stage1": 7, "stage2": 6, "stage3": 5, "stage4": 4}  # steps of a stage that halve; the deepest do not
_FLAT = (1, 2, 4, 8)  # how far apart a stage's pixels are looked at where there is no room to halve
_DEEPEST = ("stage5", "stage6")
_DOWN = (*POOLED, *_DEEPEST)
_UP = ("stage5d", "stage4d", "stage3d", "stage2d", "stage1d")


def _dilations(stage):
    """Those of a stage's steps down; the last of them is at the bottom."""
    depth = POOLED.get(stage.removesuffix("d"))
    return (1,) * (depth - 1) + (2,) if depth else _FLAT


def _names():
    for stage in (*_DOWN, *_UP):
        depth = len(_dilations(stage))
        steps = {"enter": "in"} | {f"down{i}": f"{i}" for i in range(1, depth + 1)}
        steps |= {f"up{i}": f"{i}d" for i in range(1, depth)}
        for ours, theirs in steps.items():
            yield f"stages.{stage}.steps.{ours}.conv", f"{stage}.rebnconv{theirs}.conv_s1"
            yield f"stages.{stage}.steps.{ours}.norm", f"{stage}.rebnconv{theirs}.bn_s1"


ISNET_NAMES = {"stem": "conv_in", **dict(_names()), **{f"sides.side{i}": f"side{i}" for i in range(1, 7)}}


@dataclass(frozen=True)
class ISNetConfig:
    """Sizes. `widths` are those of the pictures between the six stages on the way down, `inner` those within.

    Pictures of `image_size` on a side are what it was trained on.
    """

    image_size: int = 1024
    stem: int = 64
    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    inner: tuple[int, ...] = (32, 32, 64, 128, 256, 256)
    widths_up: tuple[int, ...] = (512, 256, 128, 64, 64)
    inner_up: tuple[int, ...] = (256, 128, 64, 32, 16)


ISNET_SIZES = {
    "RMBG-1.4": ISNetConfig(),
    STORYBOOK: ISNetConfig(  # the answer has half the side: more pixels than portraits have
        64, 8, (8, 16, 32, 64, 64, 64), (4, 4, 8, 16, 32, 32), (64, 32, 16, 8, 8), (32, 16, 8, 4, 2)
    ),
}


class _Step(nnx.Module):
    def __init__(self, size_in, size_out, dilation, rngs):
        self.conv = Conv(size_in, size_out, 3, padding=dilation, dilation=dilation, rngs=rngs)
        self.norm = BatchNorm(size_out)

    def __call__(self, x):
        return jax.nn.relu(self.norm(self.conv(x)))


class Stage(nnx.Module):
    """A small U: steps down, each on half the picture of the one before or on pixels further apart, and up again."""

    def __init__(self, stage, size_in, inner, size_out, *, rngs: nnx.Rngs):
        self.pools, dilations = stage.removesuffix("d") in POOLED, _dilations(stage)
        depth = len(dilations)
        self.steps = nnx.Dict(enter=_Step(size_in, size_out, 1, rngs))
        for place, dilation in enumerate(dilations, 1):
            self.steps[f"down{place}"] = _Step(size_out if place == 1 else inner, inner, dilation, rngs)
        for place in range(depth - 1, 0, -1):
            dilation = 1 if self.pools else dilations[place - 1]
            self.steps[f"up{place}"] = _Step(2 * inner, size_out if place == 1 else inner, dilation, rngs)
        self.depth = depth

    def __call__(self, x: jax.Array) -> jax.Array:
        entered = x = self.steps["enter"](x)
        levels = []
        for place in range(1, self.depth):
            # The bottom sees the last level as it is.
            x = self.steps[f"down{place}"](halved(x) if self.pools and place > 1 else x)
            levels.append(x)
        x = self.steps[f"down{self.depth}"](x)
        for place, level in zip(range(self.depth - 1, 0, -1), reversed(levels), strict=True):
            x = self.steps[f"up{place}"](jnp.concatenate([enlarged(x, level), level], -1))
        return x + entered


class ISNet(nnx.Module):
    """Pictures f32[b, h, w, 3] in [-1, 1] -> six logits of the subject, f32[6, b, h, w]; the first is the answer.

    The others are of coarser levels, to train it by. Sizes of pictures are free.
    """

    def __init__(self, config: ISNetConfig, *, rngs: nnx.Rngs):
        self.stem = Conv(3, config.stem, 3, stride=2, padding=1, rngs=rngs)
        self.stages, widths = nnx.Dict(), (config.stem, *config.widths)
        for stage, (size_in, size_out), inner in zip(_DOWN, pairwise(widths), config.inner, strict=True):
            self.stages[stage] = Stage(stage, size_in, inner, size_out, rngs=rngs)
        below = (config.widths[-1], *config.widths_up)
        across = reversed(config.widths[:-1])
        for stage, size_in, across_in, size_out, inner in zip(
            _UP, below, across, config.widths_up, config.inner_up, strict=False
        ):
            self.stages[stage] = Stage(stage, size_in + across_in, inner, size_out, rngs=rngs)
        sides = (*reversed(config.widths_up), config.widths[-1])
        self.sides = nnx.Dict(
            {f"side{place}": Conv(width, 1, 3, padding=1, rngs=rngs) for place, width in enumerate(sides, 1)}
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """See the class."""
        x = self.stem(images / 2)  # it was trained on [-0.5, 0.5]
        levels = []
        for place, stage in enumerate(_DOWN):
            x = self.stages[stage](halved(x) if place else x)
            levels.append(x)
        ups = [x]
        for stage, level in zip(_UP, reversed(levels[:-1]), strict=True):
            ups.append(self.stages[stage](jnp.concatenate([enlarged(ups[-1], level), level], -1)))
        found = [self.sides[f"side{place}"](x) for place, x in enumerate(reversed(ups), 1)]
        return jnp.stack([enlarged(each, images)[..., 0] for each in found])


def halved(x: jax.Array) -> jax.Array:
    """The largest of each two by two pixels of f32[b, h, w, c]; at an odd edge of what is there."""
    edges = [(0, 0), *((0, size % 2) for size in x.shape[1:3]), (0, 0)]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), edges)


def enlarged(x: jax.Array, like: jax.Array) -> jax.Array:
    """x f32[b, h, w, c] in the height and width of another, bilinearly."""
    if x.shape[1:3] == like.shape[1:3]:
        return x
    return jax.image.resize(x, (len(x), *like.shape[1:3], x.shape[-1]), "bilinear", antialias=False)
