"""The names that a config may use, and what they stand for; a caller's own package adds to them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from narrative_jax.algorithms.base import Algorithm
from narrative_jax.algorithms.catalogue import ALGORITHMS
from narrative_jax.generators.base import Preset
from narrative_jax.generators.presets import PRESETS
from narrative_jax.rewards.catalogue import REWARDS, TRAINABLE_REWARDS


@dataclass(frozen=True)
class Tables:
    """Plain dictionaries, by name: presets of generators, options of rewards and of annotators, algorithms, and more.

    The last three are not below this floor: `pipeline.default_tables` has them.
    """

    presets: Mapping[str, Preset] = field(default_factory=lambda: PRESETS)
    rewards: Mapping[str, type] = field(default_factory=lambda: REWARDS)
    trainable_rewards: Mapping[str, type] = field(default_factory=lambda: TRAINABLE_REWARDS)
    algorithms: Mapping[str, type[Algorithm]] = field(default_factory=lambda: ALGORITHMS)
    trainees: Mapping[str, Any] = field(default_factory=dict)
    annotators: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Any] = field(default_factory=dict)
