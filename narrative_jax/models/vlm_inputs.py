"""What a `Vlm` reads, made on the host: pictures as patches, prompts with places for them, batches of one shape."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float
from narrative_jax.models.preprocessing import CLIP, normalise
from narrative_jax.models.vlm import NOTHING, VlmInputs
from narrative_jax.models.vlm_vision import VisionTowerConfig

LEAST_PIXELS, MOST_PIXELS = 56 * 56, 12_845_056  # of a picture, as the published models have it
_LONGEST = 200  # times as long as it is wide


class Picture(NamedTuple):
    """Patches f32[p, 3 · patch_size²] of a picture, and how many of them it has down and across."""

    patches: np.ndarray
    rows: int
    columns: int


class Interleaved(NamedTuple):
    """Words and pictures: tokens i32[n], with one for each picture where it stands, and the pictures in order."""

    tokens: np.ndarray
    pictures: Sequence[Picture] = ()


def fitted_size(height: int, width: int, side: int, least: int, most: int) -> tuple[int, int]:
    """Height and width near these that are multiples of `side`, with `least` to `most` pixels in all.

    Raises InputError for a picture over 200 times as long as it is wide.
    """
    if max(height, width) > _LONGEST * min(height, width):
        rule = f"one side is up to {_LONGEST} times the other"
        raise InputError(f"a picture of {height} × {width}", rule, "crop it")
    # Halves to even, as Python rounds them, and the scale before the division: to the pixel what transformers does.
    fitted = [round(length / side) * side for length in (height, width)]
    if math.prod(fitted) > most:
        shrink = math.sqrt(height * width / most)
        fitted = [max(side, math.floor(length / shrink / side) * side) for length in (height, width)]
    elif math.prod(fitted) < least:
        grow = math.sqrt(least / (height * width))
        fitted = [math.ceil(length * grow / side) * side for length in (height, width)]
    return fitted[0], fitted[1]


def read_picture(
    image: np.ndarray, config: VisionTowerConfig, least: int = LEAST_PIXELS, most: int = MOST_PIXELS
) -> Picture:
    """A picture u8[h, w, 3] of any size as the tower sees it. Raises InputError as `fitted_size`."""
    height, width = fitted_size(*image.shape[:2], config.side, least, most)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    patches = as_patches(normalise(to_float(resized), CLIP), config)
    return Picture(patches, height // config.patch_size, width // config.patch_size)


def as_patches(images: jax.Array, config: VisionTowerConfig) -> jax.Array:
    """Pictures f32[..., h, w, 3], normalised, as f32[..., p, 3 · patch_size²]: channels, rows, columns of each patch.

    Patches that merge into one token are side by side. The sides are multiples of `config.side`.
    """
    *batch, height, width, _ = images.shape
    patch, merge = config.patch_size, config.merge
    cells = images.reshape(*batch, height // config.side, merge, patch, width // config.side, merge, patch, 3)
    order = [len(batch) + axis for axis in (0, 3, 1, 4, 6, 2, 5)]
    return cells.transpose(*range(len(batch)), *order).reshape(*batch, -1, 3 * patch**2)


def cells_of(rows: int, columns: int, merge: int) -> np.ndarray:
    """Rows and columns i32[p, 2] of a picture's patches, in the order of `as_patches`."""
    cells = np.stack(np.mgrid[:rows, :columns], -1).reshape(rows // merge, merge, columns // merge, merge, 2)
    return cells.swapaxes(1, 2).reshape(-1, 2).astype(np.int32)


def collate(
    asked: Sequence[Interleaved], length: int, patches: int, picture_token: int, config: VisionTowerConfig
) -> VlmInputs:
    """A batch of `length` tokens and `patches` patches a row, padded on the right.

    Raises InputError for a prompt that is longer, has more patches, or not one `picture_token` for each picture, and
    for patches that do not merge.
    """
    if patches % config.merge**2:
        rule = f"{config.merge**2} patches merge into one token"
        raise InputError(f"patches {patches}", rule, f"give {patches + -patches % config.merge**2}")
    rows = [_row(one, picture_token, config) for one in asked]
    for words, seen in rows:
        for kind, count, most in (("tokens", len(words[0]), length), ("patches", len(seen[0]), patches)):
            if count > most:
                rule = f"this batch has room for {most}"
                raise InputError(f"a prompt of {count} {kind}", rule, "make room, shorten it, or shrink its pictures")
    words, seen = zip(*rows, strict=True)
    mask = np.arange(length) < np.array([[len(row[0])] for row in words])
    (tokens, positions, shown), of_pictures = _padded(words, length), _padded(seen, patches)
    return VlmInputs(tokens, mask, positions, shown, *of_pictures)


def _row(asked, picture_token, config):
    """Tokens, positions and what is shown in their places; patches, their cells and whose they are."""
    count, known = int((asked.tokens == picture_token).sum()), len(asked.pictures)
    if count != known:
        given = f"a prompt with {count} places for pictures"
        raise InputError(given, f"it has {known} pictures", "write the token of a picture once for each")
    shapes = np.ones((len(asked.tokens), 2), np.int32)  # of words and pictures, in tokens down and across
    shapes[asked.tokens == picture_token] = [
        (picture.rows // config.merge, picture.columns // config.merge) for picture in asked.pictures
    ] or np.zeros((0, 2), np.int32)
    counts, steps = shapes.prod(1), shapes.max(1)  # how many tokens each is, and how far the next one's time is on
    first, begin, columns = (
        np.repeat(x, counts) for x in (np.cumsum(counts) - counts, np.cumsum(steps) - steps, shapes[:, 1])
    )
    tokens = np.repeat(asked.tokens, counts).astype(np.int32)
    down, across = np.divmod(np.arange(len(tokens)) - first, columns)
    positions = begin[:, None] + np.stack([np.zeros_like(down), down, across], -1)
    there = tokens == picture_token
    shown = np.where(there, np.cumsum(there) - 1, NOTHING).astype(np.int32)
    empty = Picture(np.zeros((0, 3 * config.patch_size**2), np.float32), 0, 0)
    seen = [
        (picture.patches, cells_of(*picture[1:], config.merge), np.full(len(picture.patches), place, np.int32))
        for place, picture in enumerate([*asked.pictures, empty])
    ]
    words = tokens, positions.astype(np.int32), shown
    return words, tuple(map(np.concatenate, zip(*seen, strict=True)))


def _padded(rows, length):
    """Three arrays [n, ...] of each row as three [b, length, ...]; what is missing of the last is NOTHING."""
    found = []
    for column, fill in zip(zip(*rows, strict=True), (0, 0, NOTHING), strict=True):
        out = np.full((len(rows), length, *column[0].shape[1:]), fill, column[0].dtype)
        for place, row in enumerate(column):
            out[place, : len(row)] = row
        found.append(out)
    return found
