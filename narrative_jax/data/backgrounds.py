"""Subjects without their backgrounds: on white, by masks that are given, or that IS-Net finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.images import to_float
from narrative_jax.core.options import File
from narrative_jax.core.records import Scene, Subject
from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.isnet import ISNET_NAMES, ISNET_SIZES, ISNet
from narrative_jax.models.network import abstract
from narrative_jax.models.preprocessing import resize
from narrative_jax.models.shipped import weights_file

WHITE = 255
LEAST, MOST = 0.01, 0.99  # shares of a picture that a subject takes: less or more is no subject, or no background


class Masks(Protocol):
    """What says where subjects are."""

    def masks(self, subject: Subject) -> np.ndarray:
        """bool[n, h, w] of its images. Raises InputError."""


@dataclass(frozen=True)
class GivenMasks:
    """The masks that came with the subjects: of people's own, where pictures say how opaque they are."""

    def masks(self, subject: Subject) -> np.ndarray:
        """See `Masks`; raises InputError for a subject without, and for masks of another size."""
        if subject.masks is None:
            rule = "its background is removed by masks, and it has none"
            raise InputError(f"subject {subject.name!r}", rule, "give masks, or take background 'isnet'")
        masks = np.asarray(subject.masks, bool)
        if masks.shape != subject.images.shape[:3]:
            masked, shown = (" × ".join(map(str, shape)) for shape in (masks.shape, subject.images.shape[:3]))
            raise InputError(f"masks of subject {subject.name!r} of {masked}", f"its images are {shown}", "fit them")
        return masks


@dataclass(frozen=True)
class FoundMasks:
    """IS-Net's, from its `weights` ("" for Storybook's own) of a `size`, where it is surer than `threshold`."""

    weights: File = field(default_factory=lambda: File(""))
    size: str = "RMBG-1.4"
    threshold: float = 0.5

    def __post_init__(self):
        check_name("size of IS-Net", self.size, ISNET_SIZES)
        if not 0 < self.threshold < 1:
            raise InputError(f"threshold {self.threshold!r}", "it lies between 0 and 1", "give one, e.g. 0.5")
        _ = self._file

    def masks(self, subject: Subject) -> np.ndarray:
        """See `Masks`. The published way: the whole picture squeezed into a square, the answer stretched to 0 and 1."""
        images, side = np.asarray(subject.images), ISNET_SIZES[self.size].image_size
        height, width = images.shape[1:3]
        squares = np.asarray(resize(to_float(images), side, side, "bilinear"))
        answers = np.stack([self._run(self._weights, square[None])[0] for square in squares])
        answers = np.asarray(resize(answers[..., None], height, width, "bilinear"))[..., 0]
        low, high = (bound(answers, axis=(1, 2), keepdims=True) for bound in (np.min, np.max))
        found = (answers - low) / np.maximum(high - low, 1e-6) > self.threshold
        # Stretching finds something in every picture, and a background too: whether they are there, answers say before.
        share = (answers > self.threshold).mean((1, 2))
        found[share < LEAST], found[share > MOST] = False, True
        return found

    @cached_property
    def _weights(self) -> Mapping[str, Any]:
        return load_weights(self._file, self._network[1], ISNET_NAMES)

    @cached_property
    def _file(self):
        return weights_file(self.weights, self.size, "isnet")

    @cached_property
    def _network(self):
        return abstract(lambda: ISNet(ISNET_SIZES[self.size], rngs=nnx.Rngs(0)))

    @cached_property
    def _run(self):
        return jax.jit(lambda weights, images: jax.nn.sigmoid(self._network[0].bind(weights)(images)[0]))


GIVEN = "given"
BACKGROUNDS = {GIVEN: GivenMasks, "isnet": FoundMasks}


def on_white(scene: Scene, by: Masks) -> Scene:
    """The scene with its subjects on white, and the masks that they were cut out by. Raises InputError as those do."""
    subjects = []
    for subject in scene.subjects:
        masks = by.masks(subject)
        images = np.where(masks[..., None], np.asarray(subject.images), np.uint8(WHITE))
        subjects.append(replace(subject, images=images, masks=masks))
    return replace(scene, subjects=tuple(subjects))


def drawn_on_white(
    scenes: Sequence[Scene], arms: Mapping[str, np.ndarray], by: Masks
) -> tuple[list[Scene], dict[str, np.ndarray]]:
    """`on_white` of scenes and of the pictures u8[scenes, k, h, w, 3] that were drawn of them. Raises InputError."""

    def drawn(images):
        return on_white(Scene("", "", (Subject("pictures", "", images),), ""), by).subjects[0].images

    white = {name: np.stack([drawn(images) for images in pictures]) for name, pictures in arms.items()}
    return [on_white(scene, by) for scene in scenes], white


def uncut(scene: Scene, by: Masks | None) -> list[str]:
    """The names of subjects that come without the masks that they would be cut out by."""
    return [subject.name for subject in scene.subjects if isinstance(by, GivenMasks) and subject.masks is None]


def as_shown(scene: Scene, by: Masks) -> Scene:
    """`on_white`; where a portrait of one's own is `uncut`, the scene is left as it is."""
    return scene if uncut(scene, by) else on_white(scene, by)


def unfit(scene: Scene) -> str:
    """Why the masks of a scene's subjects show none, "" where they do."""
    for subject in scene.subjects:
        for share in () if subject.masks is None else np.asarray(subject.masks, bool).mean((1, 2)):
            if not LEAST <= share <= MOST:
                return f"{'no' if share < LEAST else 'nothing but'} foreground in a reference"
    return ""
