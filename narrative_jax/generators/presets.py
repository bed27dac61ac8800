"""Generators by name."""

from narrative_jax.generators import flow
from narrative_jax.generators.base import Preset

PRESETS: dict[str, Preset] = {"storybook": flow.STORYBOOK, "tiny": flow.TINY}
