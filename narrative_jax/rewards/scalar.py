"""How much people would like a picture, one number learned from their preferences (ImageReward, Xu et al. 2023)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import fit_image, to_float
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.models.network import Network
from narrative_jax.models.preprocessing import normalise
from narrative_jax.models.scalar_reward import ScalarRewardConfig
from narrative_jax.models.tokenizer import PromptReader, Tokenizer
from narrative_jax.rewards.adapted import CarriesAdapters
from narrative_jax.rewards.base import SingleAspect, size_name
from narrative_jax.rewards.regions import Box, check_regions, fit, least_size, views
from narrative_jax.rewards.subjects import check_subjects


class ScalarContext(NamedTuple):
    """`tokens` i32[b, t] of the prompts, `subjects` f32[b, s, h, w, 3], their first images, `mask` bool[b, s] (False:
    padding).
    """

    tokens: np.ndarray
    subjects: np.ndarray
    mask: np.ndarray


class Shown(NamedTuple):
    """What is looked at of pictures: `whole` f32[b, h, w, 3], `views` f32[b, n, h, w, 3], and which of these count,
    `there` bool[b, n].
    """

    whole: jax.Array
    views: jax.Array
    there: jax.Array


@dataclass(frozen=True)
class Scalar(CarriesAdapters, SingleAspect):
    """One number for a picture beside its prompt and subjects; only differences mean anything.

    Several subjects are looked for in `regions`, one alone in the whole picture; see `regions.views`. `read` gives the
    weights, once they are needed. Raises InputError for regions that are none, or not as many as the network has
    places for.
    """

    size: str
    config: ScalarRewardConfig
    tokenizer: Tokenizer
    network: Network
    read: Callable[[Mesh | None], Params]
    regions: tuple[Box, ...] = ()

    def __post_init__(self):
        check_regions(self.regions)
        if len(self.regions) not in (0, self.config.views):
            rule = f"this network has places for {self.config.views}"
            raise InputError(f"{len(self.regions)} regions", rule, "give as many, or none for the whole picture")

    @property
    def name(self) -> str:
        """With the size's."""
        return f"scalar_{size_name(self.size)}"

    @property
    def max_subjects(self) -> int:
        """As many as the network has places for."""
        return self.config.max_subjects

    @property
    def least_size(self) -> tuple[int, int]:
        """A patch of either image tower, in each region."""
        return least_size(self.regions, max(self.config.vision.patch_size, self.config.subject.patch_size))

    def encode(self, scenes: Sequence[Scene]) -> ScalarContext:
        """Says once which prompts are empty or cut off.

        Raises InputError for a scene without subjects, or with more than the network has places for.
        """
        mask = check_subjects(scenes, self.config.max_subjects, self.config.subject.patch_size)
        side = self.config.side
        subjects = np.ones((*mask.shape, side, side, 3), np.float32)
        for row, scene in zip(subjects, scenes, strict=True):
            row[: len(scene.subjects)] = [to_float(fit_image(each.images[0], side)) for each in scene.subjects]
        return ScalarContext(self._reader.tokens([scene.prompt for scene in scenes]), subjects, mask)

    def fit(self, images: jax.Array, context: ScalarContext) -> Shown:
        """The whole picture as the prompt's tower sees it, and where subjects are looked for as theirs does."""
        shown = views(images, self.regions, context.mask, self.config.side)
        return Shown(fit(images, self.config.vision.image_size), *shown)

    def judge(self, params: Params, fitted: Shown, context: ScalarContext, critiques: Any = None) -> jax.Array:
        """f32[b, 1]; see `PureReward`."""
        vision, subject = self.config.vision, self.config.subject
        seen, shown, there = normalise(fitted.whole, vision.normalisation), fitted.views, fitted.there
        shown, subjects = (normalise(pictures, subject.normalisation) for pictures in (shown, context.subjects))
        return self.network.bind(params)(context.tokens, seen, shown, there, subjects, context.mask)[:, None]

    @cached_property
    def _reader(self):
        return PromptReader(self.name, self.tokenizer, self.config.text.max_length)
