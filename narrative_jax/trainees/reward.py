"""A reward that is trained on preferences: the weights that its own rule names, or an adapter on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from narrative_jax.algorithms.base import Algorithm, Models, Role
from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.options import files_in
from narrative_jax.core.types import Params
from narrative_jax.models.lora import AdapterOptions, adapter_of
from narrative_jax.rewards.base import PureReward, TrainableReward
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.rewards.seen import check_squares
from narrative_jax.runs.directory import Context
from narrative_jax.runs.scores import CALIBRATION
from narrative_jax.runs.trained_rewards import Saver, begun, scorer, trainable_reward
from narrative_jax.trainees.base import Batches, TrainingSetOptions, check_kind
from narrative_jax.trainees.drawn import check_drawn
from narrative_jax.trainees.judged import check_batches, open_batches

_MOST = 1024  # pairs scored for the calibration: one that writes takes its time


@dataclass(frozen=True)
class RewardTraining:
    """`reward` names what is trained, whose options stand in its section; with an `adapter` that alone is.

    It begins as the train entry `after` left that reward, "" as the options say. A `training_set` is recognised or
    described; with `drawn`, an entry, every other example is one of the pictures that it drew instead.
    """

    reward: str
    adapter: AdapterOptions | None = None
    after: str = ""
    training_set: TrainingSetOptions | None = None
    drawn: str = ""

    def __post_init__(self):
        if self.after and self.adapter:
            rule = "an adapter stands on weights that its options name"
            raise InputError(f"after {self.after!r}", rule, "leave adapter or after out")


@dataclass(frozen=True)
class RewardTrainee:
    """See `base.Trainee`."""

    Options: ClassVar[type] = RewardTraining
    kinds: ClassVar[tuple[str, ...]] = ("preferences", "annotations", "squares", "pictures", "descriptions")
    sample_every: ClassVar[int] = 0

    context: Context
    options: RewardTraining
    trainable: TrainableReward
    policy: PureReward
    params: Params
    frozen: Params
    saver: Saver | None = None

    @classmethod
    def sections(cls, context: Context) -> list[str]:
        """See `base.Trainee`."""
        return list(context.tables.trainable_rewards)

    @classmethod
    def check(cls, context: Context, algorithm: Algorithm, options: RewardTraining) -> None:
        """See `base.Trainee`."""
        check_kind(cls, context, algorithm)
        reward, _ = trainable_reward(context).untrained(context.config.seed)
        if options.adapter and not hasattr(reward, "with_adapter"):
            raise InputError(f"adapter on reward {reward.name!r}", "it carries none", "leave adapter out")
        if algorithm.batch != "preferences" and not getattr(reward, "writes", False):
            rule = f"{context.entry.algorithm} trains rewards that write critiques"
            raise InputError(f"reward {reward.name!r}", rule, "take one that does, e.g. 'nireward'")
        if options.after:
            _check_after(context, options)
        if algorithm.batch == "squares":
            check_squares(reward.name, reward.prompts.room.side, reward.prompts.tower.side)
        check_batches(context, algorithm, options.training_set)
        if options.drawn:
            _check_drawn(context, options)

    @classmethod
    def files(cls, context: Context) -> list:
        """See `base.Trainee`."""
        return list(files_in(trainable_reward(context)))

    @classmethod
    def open(cls, context: Context, algorithm: Algorithm, options: RewardTraining) -> "RewardTrainee":
        """See `base.Trainee`."""
        trainable = trainable_reward(context)
        reward, weights = begun(context, trainable, options.after, options.adapter)
        if options.adapter:
            trains = {name for name in weights if adapter_of(name) == context.name}
        else:
            trains = {name for name in weights if trainable.trains(name)}
        params = {name: value for name, value in weights.items() if name in trains}
        frozen = {name: value for name, value in weights.items() if name not in trains}
        saver = Saver.on(context, reward, frozen, options.adapter)
        return cls(context, options, trainable, reward, params, frozen, saver)

    @property
    def axes(self) -> Mapping[str, tuple]:
        """See `base.Trainee`."""
        return self.policy.axes

    def models(self, params: Params, frozen: Params) -> Models:
        """See `base.Trainee`."""
        return Models(Role(self.policy, {**frozen, **params}))

    def batches(self, algorithm: Algorithm) -> Batches:
        """See `base.Trainee`. Raises InputError for preferences on several aspects."""
        return self._batches

    @cached_property
    def _batches(self):
        return open_batches(
            self.context, self.options.training_set, self.options.drawn, self.policy, self.trainable.fitted
        )

    def sample(self, step: int, params: Params) -> None:
        """See `base.Trainee`: there is nothing to look at."""

    def save(self, params: Params) -> None:
        """See `base.Trainee`; with the calibration on pictures of its preferences or annotations."""
        self.saver.save(params)
        if self.options.training_set:
            return  # what only describes gives no scores
        reward, scores = _scores(self.context, self._batches)
        Calibration.of(reward, scores, self.context.entry.source).save(self.context.folder / CALIBRATION)


def _check_drawn(context, options):
    """That pictures which somebody drew are learned from beside a training set."""
    if not options.training_set:
        rule = "drawn pictures are learned from beside those of a training set"
        raise InputError(f"{context.name}.drawn {options.drawn!r}", rule, "set training_set, or leave it out")
    if context.config.get("scenes", ""):
        rule = "the oracle sees pictures of Storybook's scenes"
        raise InputError(f"{context.name}.drawn {options.drawn!r}", rule, "leave drawn, or scenes of one's own, out")
    check_drawn(context, options.drawn)


def _check_after(context, options):
    """That what comes before trains the same reward with the same options."""
    names = list(context.config.stages)
    known = [
        name
        for name in names[: names.index(context.name) if context.name in names else None]
        if context.config[name].get("trains", "") == "reward"
    ]
    check_name(f"entry that {context.name} comes after", options.after, known)
    before = context.config[options.after]
    if any(before.get(key, None) != context.entry.get(key, None) for key in ("reward", options.reward)):
        given, rule = f"{context.name}.after {options.after!r}", "it trains another reward, or one of other options"
        raise InputError(given, rule, "give both the same")


def _scores(context: Context, batches: Batches) -> tuple[PureReward, np.ndarray]:
    """What the entry trained, and what it says of both pictures of the first pairs, f32[2 · pairs, aspects]."""
    reward, rows, score = scorer(context)
    scores, size = [], min(batches.size, _MOST)
    for start in range(0, size, rows):
        _, batch = batches.make(np.arange(start, start + rows) % batches.size)  # always as many: one compilation
        kept = min(rows, size - start)
        sides = ("first", "second") if "first" in batch else ("chosen", "rejected")
        scores += [np.asarray(score(batch[side], batch["context"]))[:kept] for side in sides]
    return reward, np.concatenate(scores)
