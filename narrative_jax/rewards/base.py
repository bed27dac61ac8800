"""What everything that scores pictures has in common."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from narrative_jax.core.records import Scene

ASPECTS = ("prompt_following", "identity_consistency", "visual_quality")  # the papers'; a reward may have others


class Reward(Protocol):
    """A scorer. `aspects` names the columns of its scores; higher is better in each.

    `differentiable`: a loss may go through it. `needs_facts`: it judges by what Storybook knows about its own scenes,
    so a user's scenes cannot be scored, and what is trained on it shows an upper bound of what rewards can do.
    """

    name: str
    aspects: tuple[str, ...]
    differentiable: bool
    needs_facts: bool


class HostReward(Reward, Protocol):
    """A reward that works on the host, outside of any loss."""

    def score_images(self, images: np.ndarray, scenes: Sequence[Scene], candidate_ids: Sequence[str]) -> np.ndarray:
        """Scores f32[b, aspects] of pictures u8[b, h, w, 3], each of its scene. Raises InputError."""
        ...
