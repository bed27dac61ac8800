"""The subjects of a scene, as an encoder sees their images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import fit_image, to_float
from narrative_jax.core.memory import Memory, content_key
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.rewards.base import SingleAspect
from narrative_jax.rewards.picture_encoders import PictureEncoder
from narrative_jax.rewards.regions import least_size


@dataclass(frozen=True)
class SubjectReward(SingleAspect):
    """What compares the characters of a picture with the subjects, by the encoder's embeddings.

    `kind` says how, the fields `regions` and `max_subjects` where and how many; `_embed_subject` gives f32[...] for
    what is known of a subject, of what `_embed` gives f32[b, ...] for weights and pictures. What is more like a subject
    than `threshold` pays `penalty` for it.
    """

    kind: ClassVar[str]

    encoder: PictureEncoder
    _memory: Memory = field(default_factory=Memory, init=False, compare=False, repr=False)

    @property
    def name(self) -> str:
        """With the encoder's."""
        return f"{self.kind}_{self.encoder.name}"

    @property
    def params(self) -> Params:
        """The encoder's."""
        return self.encoder.params

    @property
    def shapes(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """See `PureReward`."""
        return self.encoder.shapes

    @property
    def axes(self) -> Mapping[str, tuple]:
        """See `PureReward`."""
        return self.encoder.network.axes

    @property
    def least_size(self) -> tuple[int, int]:
        """That each region holds a patch."""
        return least_size(self.regions, self.encoder.patch)

    def _penalised(self, similarity: jax.Array) -> jax.Array:
        """similarity - penalty · relu(similarity - threshold), as what is too like the subject image is a copy (UPER).

        Above a penalty of 1 the threshold is best. Where true pictures lie is the encoder's own: around 0.9 by one,
        around 0.3 by another.
        """
        return similarity - self.penalty * jax.nn.relu(similarity - self.threshold)

    def _references(self, known: Sequence[tuple[np.ndarray, ...]], mask: np.ndarray) -> np.ndarray:
        """What `_embed_subject` gives for each subject, f32[b, s, ...], 0 where `mask` bool[b, s] has none.

        `known` are the arrays of all subjects, scene by scene; the same arrays are embedded once.
        """
        keys = [content_key(*arrays) for arrays in known]
        arrays_of = dict(zip(keys, known, strict=True))
        found = self._memory.look_up(keys, lambda new: [self._embed_subject(*arrays_of[key]) for key in new])
        rows = np.zeros((*mask.shape, *found[0].shape), np.float32)
        rows[mask] = found
        return rows

    def _blank_references(self, rows: int, *shown: np.ndarray) -> np.ndarray:
        """What `_references` gives for so many scenes, without content; `shown` is what `_embed` is given of one."""
        found = jax.eval_shape(self._embed, self.shapes, *shown)
        return np.zeros((rows, self.max_subjects, *found.shape[1:]), np.float32)


def check_subjects(scenes: Sequence[Scene], max_subjects: int, patch: int) -> np.ndarray:
    """Which of the slots hold a subject, bool[b, max_subjects].

    Raises InputError for none, for too many, and for subject images that are smaller than a patch.
    """
    for scene in scenes:
        if not 1 <= len(scene.subjects) <= max_subjects:
            given = f"scene {scene.id!r} with {len(scene.subjects)} subjects"
            remedy = "change the scene, or set the reward's max_subjects, and its regions"
            raise InputError(given, f"characters are compared with theirs, 1 to {max_subjects}", remedy)
        for subject in scene.subjects:
            height, width = subject.images.shape[1:3]
            if min(height, width) < patch:
                given = f"scene {scene.id!r}: images of {subject.name!r} of {height} × {width} pixels"
                raise InputError(given, f"they hold a patch of the encoder's, {patch} × {patch}", "give larger ones")
    return np.arange(max_subjects) < np.array([len(scene.subjects) for scene in scenes])[:, None]


def reference_pictures(images: np.ndarray, size: int) -> np.ndarray:
    """A subject's images u8[n, h, w, 3] in white squares, f32[n, size, size, 3] in [-1, 1]."""
    return to_float(np.stack([fit_image(image, size) for image in images]))
