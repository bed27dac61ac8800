"""A reward that is trained on preferences: the weights that its own rule names, or an adapter on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import jax
import numpy as np

from narrative_jax.algorithms.base import Algorithm, Models, Role
from narrative_jax.core.errors import InputError
from narrative_jax.core.options import files_in
from narrative_jax.core.types import Params
from narrative_jax.models.lora import AdapterOptions, adapter_of
from narrative_jax.rewards.base import PureReward, TrainableReward
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.runs.annotations import makes_annotations
from narrative_jax.runs.directory import Context
from narrative_jax.runs.preferences import makes_preferences
from narrative_jax.runs.rewards import save_trained_reward, trainable_reward, trained_reward, with_reward_adapter
from narrative_jax.runs.scores import CALIBRATION
from narrative_jax.trainees.base import Batches, check_kind
from narrative_jax.trainees.pairs import annotated_pairs, preferred_pairs

_SCORED = 64  # preferences scored at once for the calibration


@dataclass(frozen=True)
class RewardTraining:
    """`reward` names what is trained, whose options stand in its section; with an `adapter` that alone is."""

    reward: str
    adapter: AdapterOptions | None = None


@dataclass(frozen=True)
class RewardTrainee:
    """See `base.Trainee`."""

    Options: ClassVar[type] = RewardTraining
    kinds: ClassVar[tuple[str, ...]] = ("preferences", "annotations")
    sample_every: ClassVar[int] = 0

    context: Context
    options: RewardTraining
    trainable: TrainableReward
    policy: PureReward
    params: Params
    frozen: Params

    @classmethod
    def sections(cls, context: Context) -> list[str]:
        """See `base.Trainee`."""
        return list(context.tables.trainable_rewards)

    @classmethod
    def check(cls, context: Context, algorithm: Algorithm, options: RewardTraining) -> None:
        """See `base.Trainee`."""
        check_kind(cls, context, algorithm)
        source, seed = context.entry.get("source", ""), context.config.seed
        reward, _ = trainable_reward(context).untrained(seed)
        if options.adapter and not hasattr(reward, "with_adapter"):
            raise InputError(f"adapter on reward {reward.name!r}", "it carries none", "leave adapter out")
        if algorithm.batch == "annotations":
            if not hasattr(reward, "write_critiques"):
                rule = f"{context.entry.algorithm} trains rewards that write critiques"
                raise InputError(f"reward {reward.name!r}", rule, "take one that does, e.g. 'nireward'")
            if not makes_annotations(context, source):
                rule = f"{context.entry.algorithm} learns from critiques"
                raise InputError(f"source {source!r}", rule, "name an entry that annotates")
        elif not source or not makes_preferences(context, source):
            rule = "a reward is trained on preferences"
            raise InputError(f"source {source!r}", rule, "name an entry that screens, or collects them")

    @classmethod
    def files(cls, context: Context) -> list:
        """See `base.Trainee`."""
        return list(files_in(trainable_reward(context)))

    @classmethod
    def open(cls, context: Context, algorithm: Algorithm, options: RewardTraining) -> "RewardTrainee":
        """See `base.Trainee`."""
        trainable, seed = trainable_reward(context), context.config.seed + context.entry.get("seed", 0)
        if options.adapter:
            reward, weights = with_reward_adapter(context, trainable, context.name, options.adapter)
            trains = {name for name in weights if adapter_of(name) == context.name}
        else:
            reward, read = trainable.untrained(seed)
            weights = read()
            trains = {name for name in weights if trainable.trains(name)}
        params = {name: value for name, value in weights.items() if name in trains}
        frozen = {name: value for name, value in weights.items() if name not in trains}
        return cls(context, options, trainable, reward, params, frozen)

    @property
    def axes(self) -> Mapping[str, tuple]:
        """See `base.Trainee`."""
        return self.policy.axes

    def models(self, params: Params, frozen: Params) -> Models:
        """See `base.Trainee`."""
        return Models(Role(self.policy, {**frozen, **params}))

    def batches(self, algorithm: Algorithm) -> Batches:
        """See `base.Trainee`. Raises InputError for preferences on several aspects."""
        return self._pairs

    @cached_property
    def _pairs(self):
        make = annotated_pairs if makes_annotations(self.context, self.context.entry.source) else preferred_pairs
        return make(self.context, self.policy, self.trainable.fitted)

    def sample(self, step: int, params: Params) -> None:
        """See `base.Trainee`: there is nothing to look at."""

    def save(self, params: Params) -> None:
        """See `base.Trainee`; with the calibration on the pictures of its preferences or annotations."""
        save_trained_reward(self.context, self.policy, self.frozen, params, self.options.adapter)
        reward = trained_reward(self.context)
        scores = _scores(reward, self._pairs)
        Calibration.of(reward, scores, self.context.entry.source).save(self.context.folder / CALIBRATION)


def _scores(reward: PureReward, batches: Batches) -> np.ndarray:
    """What a reward says of both pictures of each pair, f32[2 · size, aspects]."""
    run, scores = jax.jit(reward.score), []
    for start in range(0, batches.size, _SCORED):
        _, batch = batches.make(np.arange(start, start + _SCORED) % batches.size)  # always as many: one compilation
        kept = min(_SCORED, batches.size - start)
        sides = ("first", "second") if "first" in batch else ("chosen", "rejected")
        scores += [run(reward.params, batch[side], batch["context"])[:kept] for side in sides]
    return np.concatenate(scores)
