"""Storybook's raters as annotators."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from narrative_jax.annotators.base import SAME_SUBJECT
from narrative_jax.core.records import Annotation, Candidate, Example, Scene
from narrative_jax.rewards.oracle import facts_of, judge_images
from narrative_jax.rewards.raters import Raters
from narrative_jax.storybook.raters import Rater


@dataclass(frozen=True)
class RaterAnnotators:
    """The raters of these `seeds`: the mean of their ratings, and the words of the first. See `rewards.raters`."""

    name: ClassVar[str] = "raters"
    needs_facts: ClassVar[bool] = True

    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self):
        Raters(self.seeds)

    def same_subject(self, examples: Sequence[Example]) -> list[Annotation]:
        """See `base.Annotator`."""
        scenes = [example.scene for example in examples]
        judgement = judge_images([example.target for example in examples], scenes)
        facts, ids = [facts_of(scene) for scene in scenes], [scene.id for scene in scenes]
        said = [Rater(seed).same_subject(judgement, facts, ids) for seed in self.seeds]
        ratings = np.mean([rating for rating, _ in said], 0)
        return [
            Annotation(id, SAME_SUBJECT, critique, float(rating), self.name)
            for id, rating, critique in zip(ids, ratings, said[0][1], strict=True)
        ]

    def annotate(self, pictures: Sequence[Candidate], scenes: Sequence[Scene]) -> list[Annotation]:
        """See `base.Annotator`; raters by their seeds."""
        judgement = judge_images([each.image for each in pictures], scenes)
        facts, ids = [facts_of(scene) for scene in scenes], [each.id for each in pictures]
        return [each for seed in self.seeds for each in Rater(seed).annotate(judgement, facts, ids)]
