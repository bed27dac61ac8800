"""What a reward gives on a stated set of pictures, so that rewards of different scales can be put together."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import read_json, write_json
from narrative_jax.rewards.base import Reward

LEAST_STD = 1e-3  # a reward that hardly varies is not blown up


@dataclass(frozen=True)
class Calibration:
    """Mean and deviation (at least 0.001) of each aspect of a reward; `on` says of which pictures."""

    reward: str
    aspects: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    on: str

    @classmethod
    def of(cls, reward: Reward, scores, on: str) -> "Calibration":
        """From scores f32[n, aspects] of the set `on`. Raises InputError where some are not finite."""
        scores = np.float64(scores)
        if not np.isfinite(scores).all():
            given = f"{np.count_nonzero(~np.isfinite(scores).all(1))} scores of reward {reward.name!r} on {on}"
            raise InputError(given, "they are not finite", "look at its weights and at these pictures")
        std = np.maximum(scores.std(0), LEAST_STD)
        return cls(reward.name, reward.aspects, scores.mean(0).tolist(), std.tolist(), on)

    def save(self, path: str | Path) -> None:
        """Write it as JSON, beside the reward's weights or its scores. Raises InputError where it cannot be written."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path, reward: Reward) -> "Calibration":
        """Read that of this reward. Raises InputError for a missing or damaged file, and for that of another."""
        saved = read_json(path)
        try:
            found = cls(**saved)
            whole = all(len(values) == len(found.aspects) for values in (found.mean, found.std))
        except TypeError:
            whole = False
        if not whole or not all(std > 0 for std in found.std):
            rule = "it holds reward, aspects, mean, std and on, a mean and a positive std for each aspect"
            raise InputError(f"{path}", rule, "calibrate again")
        if (found.reward, tuple(found.aspects)) != (reward.name, tuple(reward.aspects)):
            rule = f"it is of reward {found.reward!r} with {', '.join(found.aspects)}"
            raise InputError(f"{path} for reward {reward.name!r}", rule, "calibrate this one")
        return found
