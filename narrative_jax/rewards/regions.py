"""Where in a picture its characters are looked for."""

from collections.abc import Sequence

import jax
import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.models.preprocessing import module_of, resize

WHITE = 1.0
Box = tuple[float, float, float, float]  # top, left, bottom, right, in shares of the picture's height and width


def views(images: jax.Array, regions: Sequence[Box], mask: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Each region of pictures f32[b, h, w, 3] in a white square, f32[b, regions, size, size, 3], and which count,
    bool[b, regions].

    `mask` bool[b, s] says which subjects a picture is of. One alone is looked for in the whole picture: that is the
    first view then, and the only one that counts. Without regions it is the only one there is.
    """
    alone = mask.sum(1) == 1
    whole, module = fit(images, size), module_of(images)
    there = ~alone[:, None] | (np.arange(max(len(regions), 1)) == 0)
    if not regions:
        return whole[:, None], there
    first, *others = (fit(_cut(images, box), size) for box in regions)
    return module.stack([module.where(alone[:, None, None, None], whole, first), *others], 1), there


def check_regions(regions: Sequence[Box]) -> None:
    """Raise InputError unless each is a part of the picture, in shares of its sides."""
    for top, left, bottom, right in regions:
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            rule = "a region is (top, left, bottom, right) in shares of the picture's sides"
            raise InputError(f"region {(top, left, bottom, right)}", rule, "e.g. (0, 0, 1, 0.5) for the left half")


def least_size(regions: Sequence[Box], patch: int) -> tuple[int, int]:
    """Height and width of the least picture of which each region holds a patch."""
    shares = np.array([(1, 1), *((bottom - top, right - left) for top, left, bottom, right in regions)]).min(0)
    height, width = np.ceil(patch / shares - 1e-6)  # thirds are no exact floats
    return int(height), int(width)


def fit(images: jax.Array, size: int) -> jax.Array:
    """Pictures f32[b, h, w, 3] in the middle of white squares; as `fit_image`, but differentiable, by CLIP's filter."""
    height, width = (max(1, round(side * size / max(images.shape[1:3]))) for side in images.shape[1:3])
    top, left = (size - height) // 2, (size - width) // 2
    around = ((0, 0), (top, size - height - top), (left, size - width - left), (0, 0))
    return module_of(images).pad(resize(images, height, width), around, constant_values=WHITE)


def _cut(images, box):
    height, width = images.shape[1:3]
    top, left, bottom, right = (round(share * side) for share, side in zip(box, (height, width) * 2, strict=True))
    return images[:, top : max(bottom, top + 1), left : max(right, left + 1)]
