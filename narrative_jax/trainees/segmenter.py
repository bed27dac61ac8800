"""Storybook's IS-Net, which learns to tell subjects from backgrounds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from flax import nnx
from PIL import Image

from narrative_jax.algorithms.base import Algorithm, Models, Role
from narrative_jax.core.images import to_float
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import save_weights
from narrative_jax.models.isnet import ISNET_NAMES, ISNET_SIZES, ISNet
from narrative_jax.models.layers import STATISTICS
from narrative_jax.models.network import Network, split
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.runs.directory import WEIGHTS, Context
from narrative_jax.trainees.base import Batches, TrainingSetOptions, check_kind, check_source

_SIZES = ISNET_SIZES[STORYBOOK]


@dataclass(frozen=True)
class SegmenterOptions:
    """Of each example of the training set it learns from a portrait and from the picture, by turns."""

    training_set: TrainingSetOptions


@dataclass(frozen=True)
class SegmenterTrainee:
    """See `base.Trainee`. Statistics of batch norms stay 0 and 1, as they are at inference; scale and bias learn."""

    Options: ClassVar[type] = SegmenterOptions
    kinds: ClassVar[tuple[str, ...]] = ("masks",)
    sample_every: ClassVar[int] = 0

    context: Context
    options: SegmenterOptions
    network: Network
    params: Params
    frozen: Params

    @classmethod
    def sections(cls, context: Context) -> list[str]:
        """See `base.Trainee`."""
        return []

    @classmethod
    def check(cls, context: Context, algorithm: Algorithm, options: SegmenterOptions) -> None:
        """See `base.Trainee`."""
        check_kind(cls, context, algorithm)
        check_source(context, options.training_set)

    @classmethod
    def files(cls, context: Context) -> list:
        """See `base.Trainee`."""
        return []

    @classmethod
    def open(cls, context: Context, algorithm: Algorithm, options: SegmenterOptions) -> "SegmenterTrainee":
        """See `base.Trainee`; it begins at random."""
        network, weights = split(ISNet(_SIZES, rngs=nnx.Rngs(context.config.seed + context.entry.get("seed", 0))))
        fixed = {name for name in weights if name.endswith(STATISTICS)}
        parts = ({name: weights[name] for name in names} for names in (weights.keys() - fixed, fixed))
        return cls(context, options, network, *parts)

    @property
    def axes(self) -> Mapping[str, tuple]:
        """See `base.Trainee`."""
        return self.network.axes

    def models(self, params: Params, frozen: Params) -> Models:
        """See `base.Trainee`."""
        return Models(Role(self.network, {**frozen, **params}))

    def batches(self, algorithm: Algorithm) -> Batches:
        """See `base.Trainee`: image and mask of each element, in squares of the network's side."""
        examples = self.options.training_set.open()

        def make_batch(indices):
            rows, which = np.divmod(indices, 2)
            found = examples.batch(rows)
            silhouettes = examples.silhouettes(rows)
            pairs = [
                (example.target, silhouette) if of_picture else _portrait(example, row)
                for example, silhouette, of_picture, row in zip(found, silhouettes, which, rows, strict=True)
            ]
            images = to_float(np.stack([_squeezed(image) for image, _ in pairs]))
            masks = np.stack([_squeezed(np.uint8(255 * mask)) for _, mask in pairs]) > 127
            return [example.scene.id for example in found], {"image": images, "mask": masks}

        return Batches(2 * len(examples), make_batch)

    def sample(self, step: int, params: Params) -> None:
        """See `base.Trainee`: there is nothing to look at."""

    def save(self, params: Params) -> None:
        """See `base.Trainee`; in published names."""
        save_weights(self.context.folder / WEIGHTS, {**self.frozen, **params}, ISNET_NAMES)


def _portrait(example, row):
    """Image and mask of one of the subjects, all in turn."""
    subject = example.scene.subjects[row % len(example.scene.subjects)]
    return subject.images[0], subject.masks[0]


def _squeezed(image):
    """As the network sees pictures: u8[h, w, ...] in a square of its side."""
    return np.asarray(Image.fromarray(image).resize((_SIZES.image_size,) * 2, Image.Resampling.BILINEAR))
