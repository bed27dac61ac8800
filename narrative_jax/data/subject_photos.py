"""The photos of a subject, and where in them it is, as arrays that are read when their pixels are asked for."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from narrative_jax.core.images import fit_image
from narrative_jax.data.photos import (
    Embedded,
    has_transparency,
    picture_size,
    read_photo,
    read_transparency,
    reduced_size,
)

_READ_AT_ONCE = 16  # subjects whose photos are kept, since the next rows often ask for them again
_HALF = 128  # of 255: what is more transparent is no subject


class _OnDemand:
    """An array of a `shape`, read when its pixels are asked for."""

    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place) -> np.ndarray:
        return self._read()[place]

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self[:])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self[:], dtype, copy=copy)


class Photos(_OnDemand):
    """One subject's photos as an array u8[n, h, w, 3]; `files` are whole pictures.

    Of different sizes, each stands in a white square as large as the largest.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, files: Sequence[Path | Embedded]):
        self.files = tuple(files)
        self.changed = tuple(file.stat().st_mtime_ns for file in self.files)
        sizes = [reduced_size(*picture_size(file)) for file in self.files]
        self.sizes = np.array(sizes)
        size = sizes[0] if len(set(sizes)) == 1 else (self.sizes.max(),) * 2
        self.shape = (len(self.files), *map(int, size), 3)

    def masks(self) -> "PhotoMasks | None":
        """Where the subject is, None unless all photos have transparency around it."""
        masked = all(isinstance(file, Path) and has_transparency(file) for file in self.files)
        return PhotoMasks(self) if masked else None

    def _read(self):
        return _read_photos(self.files, self.changed, self.shape)


class PhotoMasks(_OnDemand):
    """Where the subject of photos is, bool[n, h, w]: where they are more opaque than transparent."""

    dtype = np.dtype(bool)

    def __init__(self, photos: Photos):
        self.shape, self._photos = photos.shape[:3], photos

    def _read(self):
        return _read_masks(self._photos.files, self._photos.changed, self._photos.shape)


@lru_cache(maxsize=_READ_AT_ONCE)
def _read_photos(files, _changed, shape):
    return _shared(_of_one_size([read_photo(file) for file in files], shape))


@lru_cache(maxsize=_READ_AT_ONCE)
def _read_masks(files, _changed, shape):
    return _shared(_of_one_size([read_transparency(file) for file in files], shape)[..., 0] < _HALF)


def _of_one_size(images, shape):
    if any(image.shape != shape[1:] for image in images):
        images = [fit_image(image, shape[1]) for image in images]
    return np.stack(images)


def _shared(array):
    """The array, which nobody may change: all who ask have the same."""
    array.flags.writeable = False
    return array
