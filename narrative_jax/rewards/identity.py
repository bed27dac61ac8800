"""Are the characters of a picture those of the subject images, whoever stands where?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.models.vision_encoders import unit
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
from narrative_jax.statistics.identity import (
    MAX_CHARACTERS,
    copy_paste,
    match_characters,
    matched_similarity,
    non_matched_similarity,
)

_KEPT = 16_384  # embeddings of subject images kept in memory


class IdentityContext(NamedTuple):
    """`references` f32[b, s, d], the mean unit embedding of a subject's images; `mask` bool[b, s] (False: padding)."""

    references: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Identity:
    """Mean cosine of the characters in `regions` and the subjects that they are matched with, by the Hungarian method.

    One subject alone is looked for in the whole picture. `side` is that of the squares the encoder sees. The gradient
    takes the matching as it is. Raises InputError for fewer regions than subjects, or more than can be matched.
    """

    differentiable: ClassVar[bool] = True
    needs_facts: ClassVar[bool] = False

    encoder: PictureEncoder
    side: int
    max_subjects: int = 1
    regions: tuple[Box, ...] = ()
    _known: dict = field(default_factory=dict, compare=False)

    def __post_init__(self):
        self.encoder.check_side(self.side)
        check_regions(self.regions)
        least = self.max_subjects if self.max_subjects > 1 else 0
        if not least <= len(self.regions) <= MAX_CHARACTERS:
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
        """Embeddings of the subject images, each image worked out once. Raises InputError for a scene without."""
        mask = check_subjects(scenes, self.max_subjects, self.encoder.patch)
        found = [[self._reference(subject) for subject in scene.subjects] for scene in scenes]
        return IdentityContext(padded(found, mask), mask)

    def score(self, params: Params, images: jax.Array, context: IdentityContext) -> jax.Array:
        """f32[b, 1]; see `PureReward`."""
        _, similarity, matching, _ = self._matched(params, images, context)
        return matched_similarity(similarity, matching)[:, None]

    def measures(
        self, params: Params, images: jax.Array, context: IdentityContext, truths: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """MultiID-Bench's (Xu et al. 2025), f32[b] each: `identity`, `blending` (the lower, the better), and
        `copy_paste` where `truths` f32[b, h, w, 3], true pictures of the same scenes, are given (1: a pasted copy; NaN
        where no true character differs from its subject image).
        """
        seen, similarity, matching, there = self._matched(params, images, context)
        measured = {
            "identity": matched_similarity(similarity, matching),
            "blending": non_matched_similarity(similarity, matching, there, context.mask),
        }
        if truths is not None:
            true, _, true_matching, _ = self._matched(params, truths, context)
            drawn, true = (_by_subject(*pair) for pair in ((seen, matching), (true, true_matching)))
            pasted = copy_paste(drawn, true, unit(context.references))
            told = context.mask & jnp.isfinite(pasted)
            measured["copy_paste"] = jnp.where(told.any(1), masked_mean(pasted, told), jnp.nan)
        return measured

    def _matched(self, params, images, context):
        """Embeddings [b, regions, d], similarity and matching [b, regions, subjects], and which regions count."""
        alone = context.mask.sum(1) == 1
        seen = self.encoder.embed(params, views(images, self.regions, alone, self.side))
        there = ~alone[:, None] | (jnp.arange(seen.shape[1]) == 0)
        similarity = (seen[:, :, None] * context.references[:, None]).sum(-1)
        return seen, similarity, match_characters(similarity, there, context.mask), there

    def _reference(self, subject):
        """f32[d]: a cosine with a mean embedding is the mean of the cosines."""

        def make():
            pictures = reference_pictures(subject, self.side)
            return np.mean([self._embed(self.params, picture[None])[0] for picture in pictures], 0)

        return remembered(self._known, _KEPT, content_key(subject.images), make)

    @cached_property
    def _embed(self):
        return jax.jit(self.encoder.embed)


def _by_subject(seen, matching):
    """The embedding [b, subjects, d] of the region that each subject is matched with."""
    return (matching[..., None] * seen[:, :, None]).sum(1)
