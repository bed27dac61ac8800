"""What published encoders do to a picture before they look at it, as differentiable functions.

Pictures are f32[b, h, w, 3] in [-1, 1]. Sizes are static, so that each function can stand inside jit. NumPy's pictures
stay NumPy's: those of many sizes would otherwise compile for each.
"""

from functools import cache
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.core.errors import InputError, check_name

BLACK = -1.0
# A float's error beyond white must not cost white its gradient; 1/200 of a level of 255.
_LIMIT = 1 + 4e-5


class Normalisation(NamedTuple):
    """Mean and deviation of each channel, for pictures in [0, 1]."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CENTRED = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # to [-1, 1]: ArcFace's


def module_of(images: jax.Array | np.ndarray) -> ModuleType:
    """What works on these: numpy or jax.numpy."""
    return np if isinstance(images, np.ndarray) else jnp


def normalise(images: jax.Array, by: Normalisation) -> jax.Array:
    """((images + 1) / 2 - mean) / deviation, of the same shape."""
    mean, deviation = (module_of(images).asarray(values, images.dtype) for values in by)
    return ((images + 1) / 2 - mean) / deviation


def resize(images: jax.Array, height: int, width: int, method: str = "bicubic", *, clip: bool = True) -> jax.Array:
    """f32[b, height, width, c] by "bicubic" or "bilinear" filters, antialiased: as wide as a pixel of the result.

    With `clip`, as PIL resizes bytes, columns first (Pillow 13: not of all tall pictures): what overshoots is cut after
    each pass; within 1.2 of its 255 levels, since its rounding has no gradient. Without, as torch resizes floats.
    Raises InputError for another method.
    """
    if method not in _FILTERS:
        check_name("method", method, _FILTERS)
    return _pass(_pass(images, width, 2, method, clip), height, 1, method, clip)


def shortest_side_crop(images: jax.Array, shortest: int, crop: int, method: str = "bicubic") -> jax.Array:
    """The middle f32[b, crop, crop, c] of the pictures, resized to have this shortest side, as transformers does it.

    CLIP's own code and its heirs' (PickScore, ImageReward, LAION's heads): 224, 224; DINOv2's: 256, 224. Where an odd
    number of pixels falls off, torchvision's own crop may start one pixel later. Raises InputError for crop > shortest.
    """
    if crop > shortest:
        raise InputError(f"a crop of {crop} from a shortest side of {shortest}", "crop ≤ shortest", "lower the crop")
    height, width = images.shape[1:3]
    longest = int(shortest * max(height, width) / min(height, width))  # cut, not rounded, in both libraries
    images = resize(images, *((longest, shortest) if height > width else (shortest, longest)), method)
    top, left = ((side - crop) // 2 for side in images.shape[1:3])
    return images[:, top : top + crop, left : left + crop]


def longest_side_pad(images: jax.Array, size: int) -> jax.Array:
    """Pictures bicubically resized to this longest side, in the middle of a black f32[b, size, size, c].

    As HPS v2 sees pictures (its `ResizeMaxSize`, on float tensors, so that overshoot stays; before normalisation).
    torchvision antialiases such tensors since 0.17 and did not before. The original leaves a picture whose longest side
    is `size` as it is, and then takes square ones only; here it is padded as all others.
    """
    height, width = (max(1, round(side * (size / max(images.shape[1:3])))) for side in images.shape[1:3])
    top, left = (size - height) // 2, (size - width) // 2
    around = ((0, 0), (top, size - height - top), (left, size - width - left), (0, 0))
    return module_of(images).pad(resize(images, height, width, clip=False), around, constant_values=BLACK)


def grid_corners(height: int, width: int, size: int, stride: int) -> np.ndarray:
    """Corners i32[n, 2] (top, left) of all patches of this size, row by row; what the stride does not reach stays out.

    Raises InputError for pictures smaller than a patch.
    """
    _check_patch(height, width, size)
    rows, columns = (np.arange(0, side - size + 1, stride) for side in (height, width))
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2).astype(np.int32)


def random_corners(key: jax.Array, count: int, height: int, width: int, size: int) -> jax.Array:
    """Corners i32[count, 2] (top, left) of patches of this size, uniform over the picture.

    Raises InputError for pictures smaller than a patch.
    """
    _check_patch(height, width, size)
    return jax.random.randint(key, (count, 2), 0, jnp.array([height - size + 1, width - size + 1]))


def patches(images: jax.Array, corners: jax.Array, size: int) -> jax.Array:
    """f32[b, n, size, size, c] at corners i32[n, 2], the same for all pictures, so that patches correspond.

    Raises InputError for pictures smaller than a patch.
    """
    _check_patch(*images.shape[1:3], size)

    def patch(corner):
        start = (0, *corner.astype(int), 0)
        return jax.lax.dynamic_slice(images, start, (len(images), size, size, images.shape[3]))

    return jax.vmap(patch, out_axes=1)(jnp.asarray(corners))


def _check_patch(height, width, size):
    if size > min(height, width):
        given = f"patches of {size} from pictures of {height} × {width}"
        raise InputError(given, "a patch lies within its picture", "take smaller patches or larger pictures")


def _pass(images, size, axis, method, clip):
    """One axis resized to `size`."""
    if images.shape[axis] == size:
        return images
    weights, module = filter_weights(images.shape[axis], size, method), module_of(images)
    # Accelerators' default precision keeps fewer bits than a picture has.
    precise = {} if module is np else {"precision": jax.lax.Precision.HIGHEST}
    along = module.matmul(module.moveaxis(images, axis, -1), weights.T.astype(images.dtype), **precise)
    images = module.moveaxis(along, -1, axis)
    return module.clip(images, -_LIMIT, _LIMIT) if clip else images


@cache
def filter_weights(before: int, after: int, method: str) -> np.ndarray:
    """What each pixel of the result takes of each pixel before, f64[after, before]; its rows sum to 1."""
    scale = before / after
    centres = (np.arange(after) + 0.5) * scale
    distances = (np.arange(before) + 0.5 - centres[:, None]) / max(scale, 1)
    weights = _FILTERS[method](np.abs(distances))
    return weights / weights.sum(1, keepdims=True)


def _bilinear(x):
    return np.maximum(1 - x, 0)


def cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys 1981, eq. 4 and 8, of distances ≥ 0; -0.5 is PIL's, and that of torch with antialias."""
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


_FILTERS = {"bicubic": cubic, "bilinear": _bilinear}
