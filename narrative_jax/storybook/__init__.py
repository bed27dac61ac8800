"""Storybook: a procedural picture-book world, the oracle that judges any picture of it, and its raters."""

from narrative_jax.storybook.datasets import TEST_SCENES, TrainingSet, drawings, scenes
from narrative_jax.storybook.oracle import ASPECTS, CRITERIA, Findings, Judgement, judge
from narrative_jax.storybook.raters import NoiseModel, Rater
from narrative_jax.storybook.render import Drawing, render
from narrative_jax.storybook.world import WORLD, Character, Facts, World

VERSION = 3  # of the world, its judge and its raters: raise it with whatever changes what they draw or find

__all__ = [
    "ASPECTS",
    "CRITERIA",
    "TEST_SCENES",
    "VERSION",
    "WORLD",
    "Character",
    "Drawing",
    "Facts",
    "Findings",
    "Judgement",
    "NoiseModel",
    "Rater",
    "TrainingSet",
    "World",
    "drawings",
    "judge",
    "render",
    "scenes",
]
