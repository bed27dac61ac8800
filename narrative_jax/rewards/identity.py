"""Are the characters of a picture those of the subject images, whoever stands where?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.models.face_alignment import TEMPLATE, TEMPLATE_SIZE, align_faces
from narrative_jax.models.layers import unit
from narrative_jax.rewards.subjects import (
    Box,
    PictureEncoder,
    check_regions,
    check_subjects,
    content_key,
    least_size,
    masked_mean,
    padded,
    reference_pictures,
    remembered,
    views,
)
from narrative_jax.statistics.matching import (
    MAX_CHARACTERS,
    copy_paste,
    match_characters,
    matched_similarity,
    non_matched_similarity,
)

_KEPT = 16_384  # embeddings of subject images kept in memory


class Faces(NamedTuple):
    """`landmarks` f32[b, n, 5, 2] of a picture's faces, as `Scene.faces`; `there` bool[b, n] (False: padding)."""

    landmarks: np.ndarray
    there: np.ndarray


class IdentityContext(NamedTuple):
    """`references` f32[b, s, d], the mean unit embedding of a subject's images; `mask` bool[b, s] (False: padding).

    `faces` are the picture's, None where characters are looked for in regions.
    """

    references: np.ndarray
    mask: np.ndarray
    faces: Faces | None = None


@dataclass(frozen=True)
class Identity:
    """Mean cosine of the characters in `regions` and the subjects that they are matched with, by the Hungarian method.

    One subject alone is looked for in the whole picture. `side` is that of the squares the encoder sees. With
    `landmarks`, as ArcFace's networks want it, these are aligned faces of picture and subject images, whose landmarks
    the scenes give, in place of regions; a picture without faces has 0. The gradient takes matching and landmarks as
    they are. Raises InputError for fewer regions than subjects, or more than can be matched.
    """

    differentiable: ClassVar[bool] = True
    needs_facts: ClassVar[bool] = False

    encoder: PictureEncoder
    side: int
    max_subjects: int = 1
    regions: tuple[Box, ...] = ()
    landmarks: bool = False
    _known: dict = field(default_factory=dict, compare=False)

    def __post_init__(self):
        self.encoder.check_side(self.side)
        check_regions(self.regions)
        if self.landmarks and self.regions:
            raise InputError("landmarks and regions", "characters are looked for in one of the two", "set regions=()")
        least = self.max_subjects if self.max_subjects > 1 and not self.landmarks else 0
        if not least <= len(self.regions) <= MAX_CHARACTERS or self.max_subjects > MAX_CHARACTERS:
            given = f"{len(self.regions)} regions for {self.max_subjects} subjects"
            raise InputError(given, f"there are as many or more, up to {MAX_CHARACTERS}", "say where characters stand")

    @property
    def name(self) -> str:
        """With the encoder's."""
        return f"identity_{self.encoder.name}"

    @property
    def aspects(self) -> tuple[str, ...]:
        """One, the name."""
        return (self.name,)

    @property
    def params(self) -> Params:
        """The encoder's."""
        return self.encoder.params

    @property
    def least_size(self) -> tuple[int, int]:
        """That each region holds a patch."""
        return least_size(self.regions, self.encoder.patch)

    def encode(self, scenes: Sequence[Scene]) -> IdentityContext:
        """Embeddings of the subject images, each image worked out once.

        Raises InputError for a scene without subject images, or without the landmarks that are asked for.
        """
        mask = check_subjects(scenes, self.max_subjects, self.encoder.patch)
        faces = _faces(scenes) if self.landmarks else None
        found = [[self._reference(subject) for subject in scene.subjects] for scene in scenes]
        return IdentityContext(padded(found, mask), mask, faces)

    def score(self, params: Params, images: jax.Array, context: IdentityContext) -> jax.Array:
        """f32[b, 1]; see `PureReward`."""
        _, similarity, matching, _ = self._matched(params, images, context)
        return matched_similarity(similarity, matching)[:, None]

    def measures(
        self,
        params: Params,
        images: jax.Array,
        context: IdentityContext,
        truths: jax.Array | None = None,
        true_faces: Faces | None = None,
    ) -> dict[str, jax.Array]:
        """MultiID-Bench's (Xu et al. 2025), f32[b] each: `identity`, `blending` (the lower, the better), and
        `copy_paste` where `truths` f32[b, h, w, 3], true pictures of the same scenes, are given (1: a pasted copy; NaN
        where no true character differs from its subject image), with `true_faces` where the context has faces.
        """
        seen, similarity, matching, there = self._matched(params, images, context)
        measured = {
            "identity": matched_similarity(similarity, matching),
            "blending": non_matched_similarity(similarity, matching, there, context.mask),
        }
        if truths is not None:
            true, _, true_matching, _ = self._matched(params, truths, context._replace(faces=true_faces))
            drawn, true = (_by_subject(*pair) for pair in ((seen, matching), (true, true_matching)))
            pasted = copy_paste(drawn, true, unit(context.references))
            told = context.mask & jnp.isfinite(pasted)
            measured["copy_paste"] = jnp.where(told.any(1), masked_mean(pasted, told), jnp.nan)
        return measured

    def _matched(self, params, images, context):
        """Embeddings [b, regions, d], similarity and matching [b, regions, subjects], and which regions count.

        In place of regions there may be faces.
        """
        if self.landmarks:
            squares, there = aligned(images, context.faces.landmarks, self.side), context.faces.there
        else:
            alone = context.mask.sum(1) == 1
            squares = views(images, self.regions, alone, self.side)
            there = ~alone[:, None] | (jnp.arange(squares.shape[1]) == 0)
        seen = self.encoder.embed(params, squares)
        similarity = (seen[:, :, None] * context.references[:, None]).sum(-1)
        return seen, similarity, match_characters(similarity, there, context.mask), there

    def _reference(self, subject):
        """f32[d]: a cosine with a mean embedding is the mean of the cosines."""

        def make():
            if self.landmarks:
                pictures = np.asarray(aligned(to_float(subject.images), subject.landmarks[:, None], self.side))[:, 0]
            else:
                pictures = reference_pictures(subject, self.side)
            return np.mean([self._embed(self.params, picture[None])[0] for picture in pictures], 0)

        seen = (subject.images, subject.landmarks) if self.landmarks else (subject.images,)
        return remembered(self._known, _KEPT, content_key(*seen), make)

    @cached_property
    def _embed(self):
        return jax.jit(self.encoder.embed)


def aligned(images: jax.Array, landmarks: jax.Array, side: int) -> jax.Array:
    """The faces f32[b, n, side, side, 3] of pictures f32[b, h, w, 3], with landmarks f32[b, n, 5, 2] in shares."""
    height, width = images.shape[1:3]
    pixels = landmarks * np.float32([width, height]) - 0.5  # a share of 0 is the edge of the first pixel
    return jax.vmap(lambda points: align_faces(images, points, side), 1, 1)(pixels)


def _faces(scenes) -> Faces:
    """Where the faces of the scenes' pictures are. Raises InputError where nobody says so."""
    landmarks = np.tile(TEMPLATE / TEMPLATE_SIZE, (len(scenes), MAX_CHARACTERS, 1, 1))  # padding that can be aligned
    there = np.zeros(landmarks.shape[:2], bool)
    for row, scene in enumerate(scenes):
        if scene.faces is None or any(subject.landmarks is None for subject in scene.subjects):
            rule = "its picture and its subject images need the landmarks of their faces"
            raise InputError(f"scene {scene.id!r}", rule, "give them, or set landmarks=False to compare regions")
        count = len(scene.faces)
        if count > MAX_CHARACTERS:
            rule = f"up to {MAX_CHARACTERS} are matched"
            raise InputError(f"scene {scene.id!r} with {count} faces", rule, "keep the landmarks of the largest")
        landmarks[row, :count], there[row, :count] = scene.faces, True
    return Faces(landmarks, there)


def _by_subject(seen, matching):
    """The embedding [b, subjects, d] of the region that each subject is matched with."""
    return (matching[..., None] * seen[:, :, None]).sum(1)
