"""Generators by name."""

from narrative_jax.generators.base import Preset
from narrative_jax.generators.flow_presets import FLUX_DEV, STORYBOOK_FLOW, TINY_FLOW

PRESETS: dict[str, Preset] = {"storybook": STORYBOOK_FLOW, "tiny": TINY_FLOW, "flux": FLUX_DEV}
