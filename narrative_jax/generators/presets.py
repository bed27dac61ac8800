"""Generators by name."""

from narrative_jax.generators.base import Preset
from narrative_jax.generators.flow_presets import STORYBOOK, TINY

PRESETS: dict[str, Preset] = {"storybook": STORYBOOK, "tiny": TINY}
