"""The layers that networks share: linear maps that carry adapters, convolutions, norms, rotary positions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.core.types import Segment

LECUN = nnx.initializers.lecun_normal()
ZEROS = nnx.initializers.zeros_init()
TYPES = ("float32", "bfloat16")  # to compute in


class Linear(nnx.Module):
    """y = x · kernel + bias, f32[..., in] -> f32[..., out], plus what the adapters in `adapters` add.

    `axes` names the kernel's two axes for sharding. Kernels are cast to the type of `x`.
    """

    def __init__(self, size_in, size_out, *, axes=(None, None), bias=True, kernel_init=LECUN, rngs: nnx.Rngs):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size_in, size_out)), axes=axes)
        self.bias = nnx.Param(jnp.zeros(size_out), axes=axes[1:]) if bias else None
        self.adapters = nnx.Dict()

    def __call__(self, x: jax.Array, segments: Sequence[Segment] = ()) -> jax.Array:
        """`segments` cover the token axis of `x`, its last but one, so that adapters find their tokens."""
        y = x @ self.kernel.astype(x.dtype)
        if self.bias is not None:
            y = y + self.bias.astype(x.dtype)
        for adapter in self.adapters.values():
            y = adapter.add_to(y, x, segments)
        return y


class Conv(nnx.Module):
    """`convolve` by a square kernel, plus a bias; `axes` names the kernel's four axes for sharding."""

    def __init__(
        self, size_in, size_out, size, *,
        stride=1, padding=0, dilation=1, axes=(None,) * 4, bias=True, kernel_init=LECUN, rngs
    ):  # fmt: skip
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size, size, size_in, size_out)), axes=axes)
        self.bias = nnx.Param(jnp.zeros(size_out), axes=axes[3:]) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = convolve(x, self.kernel[...], self.stride, self.padding, self.dilation)
        return y if self.bias is None else y + self.bias.astype(x.dtype)


STATISTICS = (".mean", ".variance")  # how batch norms' statistics are called, which do not train


class BatchNorm(nnx.Module):
    """Zero mean and unit variance per channel by the statistics of training, which are weights; then scale and bias."""

    def __init__(self, size, *, epsilon=1e-5):
        self.epsilon = epsilon
        self.mean, self.bias = (nnx.Param(jnp.zeros(size), axes=(None,)) for _ in range(2))
        self.variance, self.scale = (nnx.Param(jnp.ones(size), axes=(None,)) for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.scale * jax.lax.rsqrt(self.variance + self.epsilon)
        return ((x.astype(jnp.float32) - self.mean) * scale + self.bias).astype(x.dtype)


class GroupNorm(nnx.Module):
    """Zero mean and unit variance over the pixels of each group of channels of x f32[b, h, w, c], in float32; then
    scale and bias.
    """

    def __init__(self, size, groups, *, epsilon=1e-6):
        self.groups, self.epsilon = groups, epsilon
        self.scale = nnx.Param(jnp.ones(size), axes=(None,))
        self.bias = nnx.Param(jnp.zeros(size), axes=(None,))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y - self._mean(y)
        y = y * jax.lax.rsqrt(self._mean(jnp.square(y)) + self.epsilon)
        return (y * self.scale + self.bias).astype(x.dtype)

    def _mean(self, x):
        # Of each channel first: accelerators pad an axis of the few channels of a group to a whole tile.
        means = x.mean((1, 2)).reshape(len(x), self.groups, -1).mean(-1)
        return jnp.repeat(means, x.shape[-1] // self.groups, -1)[:, None, None]


class LayerNorm(nnx.Module):
    """Zero mean and unit variance over the last axis in float32, with scale and bias where `affine`."""

    def __init__(self, size, *, epsilon=1e-6, affine=True):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(size), axes=(None,)) if affine else None
        self.bias = nnx.Param(jnp.zeros(size), axes=(None,)) if affine else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        if self.scale is not None:
            y = y * self.scale + self.bias
        return y.astype(x.dtype)


class RMSNorm(nnx.Module):
    """Unit root mean square over the last axis in float32, times a scale."""

    def __init__(self, size, *, epsilon=1e-6):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(size), axes=(None,))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        return (y * self.scale).astype(x.dtype)


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0, dilation: int = 1) -> jax.Array:
    """`kernel` f32[k, k, in, out], `dilation` pixels apart, slid over x f32[b, h, w, in] between `padding` zeros."""
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def unit(x: jax.Array) -> jax.Array:
    """`x` scaled to unit length over its last axis."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def rotary(positions: np.ndarray, axes_dim: Sequence[int], theta: float = 10_000.0) -> jax.Array:
    """Rotary angles of positions [n, axes] as cosines and signed sines for `rotate`, f32[2, n, sum(axes_dim)].

    Each axis owns `axes_dim` channels, in adjacent pairs (Su et al. 2021; the axes as in FLUX).
    """
    found = []
    for axis, dim in enumerate(axes_dim):
        # A table of the places that there are: in float64, and small where a program keeps it as a constant.
        places, which = np.unique(positions[:, axis], return_inverse=True)
        angles = np.repeat(places[:, None] / theta ** (np.arange(0, dim, 2, dtype=np.float64) / dim), 2, -1)
        table = np.stack([np.cos(angles), np.sin(angles) * np.tile((-1, 1), dim // 2)], 1).astype(np.float32)
        found.append(jnp.asarray(table)[which.astype(np.int32)])
    return jnp.concatenate(found, -1).swapaxes(0, 1)


def rotate(x: jax.Array, rotation: jax.Array) -> jax.Array:
    """Turn adjacent channel pairs of x f32[b, n, heads, d] by `rotation` f32[2, n, d], as `rotary` gives it."""
    cos, sin = rotation[:, :, None]
    # Pairs change places by a product with a permutation: accelerators pad an axis of two to a whole tile.
    lanes = jnp.arange(x.shape[-1])
    exchanged = jnp.matmul(x, (lanes[:, None] == lanes ^ 1).astype(x.dtype), precision=jax.lax.Precision.HIGHEST)
    return (x.astype(jnp.float32) * cos + exchanged.astype(jnp.float32) * sin).astype(x.dtype)


def half_rotation(positions: jax.Array, axes: np.ndarray, frequencies: np.ndarray) -> jax.Array:
    """Rotary angles of positions i32[b, n, a] as cosines and signed sines for `rotate_halves`, f32[2, b, n, d].

    The pair c of channels turns by the position on axis `axes[c]`, i[d / 2], times `frequencies[c]`.
    """
    angles = positions[..., axes].astype(jnp.float32) * frequencies.astype(np.float32)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.stack([jnp.concatenate([cos, cos], -1), jnp.concatenate([-sin, sin], -1)])


def rotate_halves(x: jax.Array, rotation: jax.Array) -> jax.Array:
    """Turn pairs of channels, c and c + d / 2, of x f32[b, n, heads, d] by `rotation`, as `half_rotation` gives it."""
    cos, sin = rotation[:, :, :, None]
    exchanged = jnp.concatenate(jnp.split(x, 2, -1)[::-1], -1)
    return (x.astype(jnp.float32) * cos + exchanged.astype(jnp.float32) * sin).astype(x.dtype)


def sinusoids(values: jax.Array, size: int, max_period: float = 10_000.0) -> jax.Array:
    """Cosines, then sines, of values f32[b] at `size` / 2 frequencies, f32[b, size]."""
    frequencies = jnp.exp(-np.log(max_period) * jnp.arange(size // 2, dtype=jnp.float32) / (size // 2))
    angles = values[:, None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
