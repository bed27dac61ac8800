"""Are the characters of a picture those of the subject images, whoever stands where?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.options import File
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.models.layers import unit
from narrative_jax.rewards.faces import Faces, aligned, faces_of, reference_faces
from narrative_jax.rewards.published_encoders import load_encoder
from narrative_jax.rewards.regions import Box, check_regions, views
from narrative_jax.rewards.subjects import SubjectReward, check_subjects, reference_pictures
from narrative_jax.statistics.matching import (
    MAX_CHARACTERS,
    copy_paste,
    match_characters,
    matched_similarity,
    non_matched_similarity,
)


class IdentityContext(NamedTuple):
    """`references` f32[b, s, d], the mean unit embedding of a subject's images; `mask` bool[b, s] (False: padding).

    `faces` are the picture's, None where characters are looked for in regions.
    """

    references: np.ndarray
    mask: np.ndarray
    faces: Faces | None = None


@dataclass(frozen=True)
class Identity(SubjectReward):
    """Mean cosine of the characters in `regions` and the subjects that they are matched with, by the Hungarian method.

    One subject alone is looked for in the whole picture. A cosine above `threshold` pays `penalty` for it.
    `side` is that of the squares the encoder sees. With `landmarks`, as ArcFace's networks want it, these are aligned
    faces of picture and subject images, whose landmarks the scenes give, in place of regions; a picture without faces
    has 0. The gradient takes matching and landmarks as they are.

    Raises InputError for fewer regions than subjects, or more than can be matched.
    """

    kind: ClassVar[str] = "identity"

    side: int
    max_subjects: int = 1
    regions: tuple[Box, ...] = ()
    landmarks: bool = False
    penalty: float = 0.0
    threshold: float = 1.0

    def __post_init__(self):
        self.encoder.check_side(self.side)
        check_regions(self.regions)
        if self.landmarks and self.regions:
            raise InputError("landmarks and regions", "characters are looked for in one of the two", "set regions=()")
        least = self.max_subjects if self.max_subjects > 1 and not self.landmarks else 0
        if not least <= len(self.regions) <= MAX_CHARACTERS or self.max_subjects > MAX_CHARACTERS:
            given = f"{len(self.regions)} regions for {self.max_subjects} subjects"
            raise InputError(given, f"there are as many or more, up to {MAX_CHARACTERS}", "say where characters stand")

    def encode(self, scenes: Sequence[Scene]) -> IdentityContext:
        """Embeddings of the subject images, each image worked out once.

        Raises InputError for a scene without subject images, or without the landmarks that are asked for.
        """
        mask = check_subjects(scenes, self.max_subjects, self.encoder.patch)
        faces = faces_of(scenes) if self.landmarks else None
        who = [subject for scene in scenes for subject in scene.subjects]
        known = [(each.images, each.landmarks) if self.landmarks else (each.images,) for each in who]
        return IdentityContext(self._references(known, mask), mask, faces)

    def blank(self, rows: int) -> IdentityContext:
        """See `PureReward`."""
        references = self._blank_references(rows, np.zeros((1, self.side, self.side, 3), np.float32))
        none = faces_of([]) if self.landmarks else None
        faces = jax.tree.map(lambda x: np.zeros((rows, *x.shape[1:]), x.dtype), none)
        return IdentityContext(references, np.ones(references.shape[:2], bool), faces)

    def fit(self, images: jax.Array, context: IdentityContext) -> tuple[jax.Array, jax.Array]:
        """Where characters are looked for, f32[b, n, side, side, 3], and which of these places count, bool[b, n]."""
        if self.landmarks:
            return aligned(images, context.faces.landmarks, self.side), context.faces.there
        return views(images, self.regions, context.mask, self.side)

    def judge(
        self, params: Params, fitted: tuple[jax.Array, jax.Array], context: IdentityContext, critiques: Any = None
    ) -> jax.Array:
        """f32[b, 1]; see `PureReward`."""
        _, similarity, matching, _ = self._matched(params, fitted, context)
        return matched_similarity(self._penalised(similarity), matching)[:, None]

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
        seen, similarity, matching, there = self._matched(params, self.fit(images, context), context)
        measured = {
            "identity": matched_similarity(similarity, matching),
            "blending": non_matched_similarity(similarity, matching, there, context.mask),
        }
        if truths is not None:
            of_truths = self.fit(truths, context._replace(faces=true_faces))
            true, _, true_matching, _ = self._matched(params, of_truths, context)
            drawn, true = (_by_subject(*pair) for pair in ((seen, matching), (true, true_matching)))
            pasted = copy_paste(drawn, true, unit(context.references))
            measured["copy_paste"] = jnp.mean(pasted, 1, where=context.mask & jnp.isfinite(pasted))
        return measured

    def _matched(self, params, fitted, context):
        """Embeddings [b, regions, d], similarity and matching [b, regions, subjects], and which regions count.

        In place of regions there may be faces.
        """
        squares, there = fitted
        seen = self.encoder.embed(params, squares)
        similarity = (seen[:, :, None] * context.references[:, None]).sum(-1)
        return seen, similarity, match_characters(similarity, there, context.mask), there

    def _embed_subject(self, images, landmarks=None):
        """f32[d]: a cosine with a mean embedding is the mean of the cosines."""
        if landmarks is None:
            pictures = reference_pictures(images, self.side)
        else:
            pictures = reference_faces(images, landmarks, self.side)
        return np.mean([self._embed(self.params, picture[None])[0] for picture in pictures], 0)

    @cached_property
    def _embed(self):
        return jax.jit(self.encoder.embed)


@dataclass(frozen=True)
class IdentityOptions:
    """`encoder`, `size` and `weights` are as in `load_encoder`; the others are as in `Identity`."""

    weights: File
    encoder: str = "dinov2"
    size: str = "ViT-B/14"
    side: int = 224
    max_subjects: int = 1
    regions: tuple[Box, ...] = ()
    landmarks: bool = False
    penalty: float = 0.0
    threshold: float = 1.0

    def build(self) -> Identity:
        """The reward, whose weights are read when they are needed. Raises InputError."""
        return self._made(self.weights)

    def abstract(self) -> Identity:
        """See `PureReward`. Raises InputError."""
        return self._made(None)

    def _made(self, weights):
        encoder = load_encoder(self.encoder, weights, self.size)
        where = (self.max_subjects, self.regions, self.landmarks)
        return Identity(encoder, self.side, *where, self.penalty, self.threshold)


def _by_subject(seen, matching):
    """The embedding [b, subjects, d] of the region that each subject is matched with."""
    return (matching[..., None] * seen[:, :, None]).sum(1)
