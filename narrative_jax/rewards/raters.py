"""Storybook's annotators as a reward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Pictures
from narrative_jax.rewards.base import ASPECTS
from narrative_jax.rewards.oracle import judge_images
from narrative_jax.storybook.raters import Rater


@dataclass(frozen=True)
class Raters:
    """The mean of several raters' unrounded scores, from 1 to 5; `seeds` says which raters.

    They see what the oracle finds, through their noise: a model of people, not a model that reads pictures. Training
    on them is training on privileged feedback. Raises InputError for no or repeated seeds.
    """

    name: ClassVar[str] = "raters"
    aspects: ClassVar[tuple[str, ...]] = ASPECTS
    differentiable: ClassVar[bool] = False
    needs_facts: ClassVar[bool] = True

    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self):
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds {self.seeds}", "each rater has a seed of its own", "e.g. (0, 1, 2)")
        for seed in self.seeds:
            Rater(seed)

    def score_images(self, images: Pictures, scenes: Sequence[Scene], candidate_ids: Sequence[str]) -> np.ndarray:
        """Scores f32[b, 3]; see `HostReward`. Raises InputError."""
        judgement = judge_images(images, scenes)
        return np.mean([Rater(seed).scores(judgement, candidate_ids) for seed in self.seeds], axis=0)
