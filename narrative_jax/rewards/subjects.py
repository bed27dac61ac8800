"""The characters of a picture beside their subject images, as encoders see both."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.images import fit_image, to_float
from narrative_jax.core.records import Scene, Subject
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.dinov2 import DINOV2_NAMES, DINOV2_SIZES, Dinov2Encoder
from narrative_jax.models.id_encoder import IRESNET_NAMES, IRESNET_SIZES, IResNet
from narrative_jax.models.layers import unit
from narrative_jax.models.network import Network, abstract
from narrative_jax.models.preprocessing import Normalisation, normalise, resize
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.rewards.base import size_name

WHITE = 1.0
Box = tuple[float, float, float, float]  # top, left, bottom, right, in shares of the picture's height and width


@dataclass(frozen=True)
class PictureEncoder:
    """A network that sees what a picture is of; scores that may come from several bear its `name`.

    What it calls `pooled` stands for the picture. `read` gives its weights, once they are needed. It sees squares whose
    side is a multiple of `patch`, or is `side` only.
    """

    name: str
    network: Network
    normalisation: Normalisation
    read: Callable[[], Params]
    patch: int
    side: int | None = None

    @cached_property
    def params(self) -> Params:
        """The network's weights."""
        return self.read()

    def check_side(self, side: int) -> None:
        """Raise InputError for squares that the network does not see."""
        check_count("side", side, 1)
        if self.side is None and side % self.patch:
            near = max(side // self.patch, 1) * self.patch
            rule = f"{self.name} sees squares whose side is a multiple of its patch, {self.patch}"
            raise InputError(f"squares of {side}", rule, f"take {near} or {near + self.patch}")
        if self.side not in (None, side):
            raise InputError(f"squares of {side}", f"{self.name} sees those of {self.side} only", f"take {self.side}")

    def embed(self, params: Params, images: jax.Array) -> jax.Array:
        """Unit embeddings f32[..., d] of pictures f32[..., h, w, 3] in [-1, 1]; pure."""
        flat = images.reshape(-1, *images.shape[-3:])
        pooled = self.network.bind(params)(normalise(flat, self.normalisation)).pooled
        return unit(pooled).reshape(*images.shape[:-3], -1)


def load_dinov2(weights: str | Path, size: str) -> PictureEncoder:
    """A published DINOv2, with registers where the size says "+registers".

    Raises InputError for an unknown size, and on first use for unfit weights.
    """
    check_name("size of DINOv2", size, DINOV2_SIZES)
    config = DINOV2_SIZES[size]
    network, like = abstract(lambda: Dinov2Encoder(config, rngs=nnx.Rngs(0)))

    def read():
        return load_weights(weights, like, DINOV2_NAMES)

    return PictureEncoder(f"dinov2_{size_name(size)}", network, config.normalisation, read, config.patch_size)


def load_iresnet(weights: str | Path, size: str) -> PictureEncoder:
    """A published ArcFace network (insightface's backbone.pth, or the same names in safetensors); see `face_alignment`.

    Raises InputError for an unknown size, and on first use for unfit weights.
    """
    check_name("size of IResNet", size, IRESNET_SIZES)
    config = IRESNET_SIZES[size]
    network, like = abstract(lambda: IResNet(config, rngs=nnx.Rngs(0)))

    def read():
        return load_weights(weights, like, IRESNET_NAMES)

    return PictureEncoder(
        f"iresnet_{size_name(size)}" if size == STORYBOOK else size_name(size),
        network,
        config.normalisation,
        read,
        config.patch_size,
        config.image_size,
    )


def views(images: jax.Array, regions: Sequence[Box], alone: jax.Array, size: int) -> jax.Array:
    """Each region of pictures f32[b, h, w, 3] in a white square, f32[b, regions, size, size, 3].

    Where a character is `alone` bool[b], the first view is the whole picture; without regions it is the only one.
    """
    whole = fit(images, size)
    if not regions:
        return whole[:, None]
    first, *others = (fit(_cut(images, box), size) for box in regions)
    return jnp.stack([jnp.where(alone[:, None, None, None], whole, first), *others], 1)


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


def check_subjects(scenes: Sequence[Scene], max_subjects: int, patch: int) -> np.ndarray:
    """Which of the slots hold a subject, bool[b, max_subjects].

    Raises InputError for none, for too many, and for subject images that are smaller than a patch.
    """
    for scene in scenes:
        if not 1 <= len(scene.subjects) <= max_subjects:
            given = f"scene {scene.id!r} with {len(scene.subjects)} subjects"
            raise InputError(given, f"characters are compared with theirs, 1 to {max_subjects}", "change the scene")
        for subject in scene.subjects:
            height, width = subject.images.shape[1:3]
            if min(height, width) < patch:
                given = f"scene {scene.id!r}: images of {subject.name!r} of {height} × {width} pixels"
                raise InputError(given, f"they hold a patch of the encoder's, {patch} × {patch}", "give larger ones")
    return np.arange(max_subjects) < np.array([len(scene.subjects) for scene in scenes])[:, None]


def reference_pictures(subject: Subject, size: int) -> np.ndarray:
    """The subject's images in white squares, f32[n, size, size, 3] in [-1, 1]."""
    return to_float(np.stack([fit_image(image, size) for image in subject.images]))


def remembered(known: dict, kept: int, key: bytes, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What `known` has under the key, made where it has nothing; emptied at `kept` entries."""
    if key not in known:
        if len(known) >= kept:
            known.clear()
        known[key] = make()
    return known[key]


def padded(found: Sequence[Sequence[np.ndarray]], mask: np.ndarray) -> np.ndarray:
    """What each scene's subjects have, f32[b, s, ...], with zeros where `mask` bool[b, s] has none."""
    rows = np.zeros((*mask.shape, *found[0][0].shape), np.float32)
    for row, subjects in zip(rows, found, strict=True):
        row[: len(subjects)] = subjects
    return rows


def content_key(*arrays: np.ndarray) -> bytes:
    """The same for the same arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).data)
    return digest.digest()


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean [b] of values [b, n] where `mask` bool[b, n]."""
    return jnp.where(mask, values, 0).sum(1) / jnp.maximum(mask.sum(1), 1)


def fit(images: jax.Array, size: int) -> jax.Array:
    """Pictures f32[b, h, w, 3] in the middle of white squares; as `fit_image`, but differentiable, by CLIP's filter."""
    height, width = (max(1, round(side * size / max(images.shape[1:3]))) for side in images.shape[1:3])
    top, left = (size - height) // 2, (size - width) // 2
    around = ((0, 0), (top, size - height - top), (left, size - width - left), (0, 0))
    return jnp.pad(resize(images, height, width), around, constant_values=WHITE)


def _cut(images, box):
    height, width = images.shape[1:3]
    top, left, bottom, right = (round(share * side) for share, side in zip(box, (height, width) * 2, strict=True))
    return images[:, top : max(bottom, top + 1), left : max(right, left + 1)]
