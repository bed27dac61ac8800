"""Rewards made of rewards: a weighted sum of what each says in its own deviations, or one for each aspect."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.diffusion.path import per_example
from narrative_jax.losses.reward_gradients import clipped_pull, z_score, z_score_statistics
from narrative_jax.models.network import below, under
from narrative_jax.rewards.base import ASPECTS, FitsAndJudges, Pulls, PureReward, pull_of
from narrative_jax.rewards.calibration import Calibration

_CONSTANT = 1e-5  # of the calibration deviation: what rounding makes of a reward that does not vary


class Term(NamedTuple):
    """A reward of one aspect, its weight, and what its pull on a picture is clipped at in a loss (None: nothing).

    Its norm is, or `element_wise` each of its numbers; see `Ensemble.combined`.
    """

    reward: PureReward
    calibration: Calibration
    weight: float
    clip: float | None = None
    element_wise: bool = False


class EnsembleContext(NamedTuple):
    """Each term's own context, and what its reward is measured against: `mean` and `deviation` f32[b, terms]."""

    parts: dict[str, Any]
    mean: jax.Array
    deviation: jax.Array


@dataclass(frozen=True)
class Ensemble(FitsAndJudges):
    """Σ weight · z, z the term's reward less its mean, over its deviation: UPER's composite reward.

    Means and deviations are those of the calibration until `with_statistics` puts a batch's in their place. Raises
    InputError for weights that sum to zero and for a term of several aspects.
    """

    name: ClassVar[str] = "ensemble"
    aspects: ClassVar[tuple[str, ...]] = ("ensemble",)

    terms: Mapping[str, Term]
    _told: set = field(default_factory=set, compare=False)

    def __post_init__(self):
        weights = [term.weight for term in self.terms.values()]
        if not all(isinstance(w, int | float) and math.isfinite(w) for w in weights) or abs(sum(weights)) < 1e-9:
            given = ", ".join(f"{name} {term.weight}" for name, term in self.terms.items()) or "none"
            raise InputError(f"weights {given}", "they are numbers that do not sum to zero", "raise one of them")
        for name, term in self.terms.items():
            _check_single(name, term.reward)
            if term.clip is not None and not term.clip > 0:
                raise InputError(f"clip {term.clip} of {name}", "it is positive", "None clips nothing")

    @property
    def differentiable(self) -> bool:
        """Whether all terms are."""
        return all(term.reward.differentiable for term in self.terms.values())

    @property
    def needs_facts(self) -> bool:
        """Whether any term does."""
        return any(term.reward.needs_facts for term in self.terms.values())

    @property
    def max_subjects(self) -> int | None:
        """See `_fewest`."""
        return _fewest(term.reward for term in self.terms.values())

    @property
    def params(self) -> Params:
        """Those of all terms, each under its name."""
        return _joined({name: term.reward.params for name, term in self.terms.items()})

    def laid(self, mesh: Mesh | None = None) -> Params:
        """See `PureReward`."""
        return _joined({name: term.reward.laid(mesh) for name, term in self.terms.items()})

    @property
    def shapes(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """See `PureReward`."""
        return _joined({name: term.reward.shapes for name, term in self.terms.items()})

    @property
    def axes(self) -> Mapping[str, tuple]:
        """See `PureReward`."""
        return _joined({name: term.reward.axes for name, term in self.terms.items()})

    @property
    def least_size(self) -> tuple[int, int]:
        """What all terms can judge."""
        return _least(term.reward for term in self.terms.values())

    def encode(self, scenes: Sequence[Scene]) -> EnsembleContext:
        """What each term reads in the scenes, and its calibration. Raises InputError as they do."""
        return self._context({name: term.reward.encode(scenes) for name, term in self.terms.items()}, len(scenes))

    def blank(self, rows: int) -> EnsembleContext:
        """See `PureReward`."""
        return self._context({name: term.reward.blank(rows) for name, term in self.terms.items()}, rows)

    def fit(self, images: jax.Array, context: EnsembleContext) -> dict[str, Any]:
        """What each term looks at."""
        return {name: term.reward.fit(images, context.parts[name]) for name, term in self.terms.items()}

    def judge(
        self, params: Params, fitted: dict[str, Any], context: EnsembleContext, critiques: Any = None
    ) -> jax.Array:
        """f32[b, 1]; see `PureReward`."""
        columns = [
            term.reward.judge(below(name, params), fitted[name], context.parts[name])
            for name, term in self.terms.items()
        ]
        return self._combined(jnp.concatenate(columns, 1), context)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Of what `pulls` gives."""
        return tuple(self.terms)

    def pulls(self, params: Params, images: jax.Array, context: EnsembleContext) -> Pulls:
        """What each term says of pictures f32[b, h, w, 3], as it is, and where it pulls them."""
        found = [
            pull_of(term.reward, below(name, params), images, context.parts[name]) for name, term in self.terms.items()
        ]
        rewards, gradients = zip(*found, strict=True)
        return Pulls(jnp.stack(rewards, 1), jnp.stack(gradients))

    def combined(self, pulls: Pulls, context: EnsembleContext) -> tuple[jax.Array, jax.Array]:
        """The weighted sum of z-scores f32[b], and where it pulls pictures: each term's pull clipped, then scaled."""
        scales = self._weights / context.deviation
        gradient = jnp.zeros_like(pulls.gradients[0])
        for term, pull, scale in zip(self.terms.values(), pulls.gradients, scales.T, strict=True):
            pull = pull if term.clip is None else clipped_pull(pull, term.clip, term.element_wise)
            gradient += per_example(scale, pull) * pull
        return self._combined(pulls.rewards, context)[:, 0], gradient

    def with_statistics(self, context: EnsembleContext, raw: jax.Array) -> EnsembleContext:
        """The context with the mean and deviation of `raw` f32[b, terms], the whole global batch's, for each row.

        A deviation is at least 0.1 × the calibration's; a term that does not vary at all is said once.
        """
        _, calibrated = self._calibrated()
        jax.debug.callback(self._tell, jnp.ptp(raw, 0) <= _CONSTANT * calibrated)
        mean, deviation = z_score_statistics(raw, calibrated)
        return context._replace(mean=jnp.tile(mean, (len(raw), 1)), deviation=jnp.tile(deviation, (len(raw), 1)))

    def without_statistics(self, context: EnsembleContext) -> EnsembleContext:
        """The context with which the terms count as they are, in no deviations."""
        return context._replace(mean=jnp.zeros_like(context.mean), deviation=jnp.ones_like(context.deviation))

    def _combined(self, raw, context):
        return (z_score(raw, context.mean, context.deviation) * self._weights).sum(1, keepdims=True)

    def _context(self, parts, rows):
        return EnsembleContext(parts, *(np.tile(row, (rows, 1)) for row in self._calibrated()))

    @property
    def _weights(self):
        return np.float32([term.weight for term in self.terms.values()])

    def _calibrated(self):
        """Means and deviations f32[terms]."""
        calibrations = [term.calibration for term in self.terms.values()]
        return np.float32([each.mean[0] for each in calibrations]), np.float32([each.std[0] for each in calibrations])

    def _tell(self, constant):
        names = [name for name, found in zip(self.terms, constant, strict=True) if found and name not in self._told]
        self._told.update(names)
        for name in names:
            print(f"ensemble: term {name!r} is the same for every picture of a batch: it cannot guide", file=sys.stderr)


@dataclass(frozen=True)
class PerAspect(FitsAndJudges):
    """Each aspect by a reward of its own, as it is. Raises InputError for a reward of several aspects."""

    name: ClassVar[str] = "per_aspect"

    rewards: Mapping[str, PureReward]

    def __post_init__(self):
        for aspect, reward in self.rewards.items():
            _check_single(aspect, reward)

    @property
    def aspects(self) -> tuple[str, ...]:
        """In the order given."""
        return tuple(self.rewards)

    @property
    def differentiable(self) -> bool:
        """Whether all rewards are."""
        return all(reward.differentiable for reward in self.rewards.values())

    @property
    def needs_facts(self) -> bool:
        """Whether any reward does."""
        return any(reward.needs_facts for reward in self.rewards.values())

    @property
    def params(self) -> Params:
        """Those of all rewards, each under its aspect."""
        return _joined({aspect: reward.params for aspect, reward in self.rewards.items()})

    def laid(self, mesh: Mesh | None = None) -> Params:
        """See `PureReward`."""
        return _joined({aspect: reward.laid(mesh) for aspect, reward in self.rewards.items()})

    @property
    def max_subjects(self) -> int | None:
        """See `_fewest`."""
        return _fewest(self.rewards.values())

    @property
    def axes(self) -> Mapping[str, tuple]:
        """See `PureReward`."""
        return _joined({aspect: reward.axes for aspect, reward in self.rewards.items()})

    @property
    def least_size(self) -> tuple[int, int]:
        """What all rewards can judge."""
        return _least(self.rewards.values())

    def encode(self, scenes: Sequence[Scene]) -> dict[str, Any]:
        """What each reward reads in the scenes. Raises InputError as they do."""
        return {aspect: reward.encode(scenes) for aspect, reward in self.rewards.items()}

    def fit(self, images: jax.Array, context: dict[str, Any]) -> dict[str, Any]:
        """What each reward looks at."""
        return {aspect: reward.fit(images, context[aspect]) for aspect, reward in self.rewards.items()}

    def judge(
        self, params: Params, fitted: dict[str, Any], context: dict[str, Any], critiques: Any = None
    ) -> jax.Array:
        """f32[b, aspects]; see `PureReward`."""
        columns = [reward.judge(below(a, params), fitted[a], context[a]) for a, reward in self.rewards.items()]
        return jnp.concatenate(columns, 1)


def per_aspect(
    *, prompt_following: PureReward, identity_consistency: PureReward, visual_quality: PureReward
) -> PerAspect:
    """The papers' three aspects, each by the reward given. Raises InputError for a reward of several aspects."""
    given = (prompt_following, identity_consistency, visual_quality)
    return PerAspect(dict(zip(ASPECTS, given, strict=True)))


def _check_single(name, reward):
    if len(reward.aspects) != 1:
        rule = f"reward {reward.name!r} has the aspects {', '.join(reward.aspects)}"
        raise InputError(f"{name} by a reward of {len(reward.aspects)} aspects", rule, "give one of a single aspect")


def _fewest(rewards):
    """How many subjects the reward that compares fewest does; None where none compares any."""
    compared = (getattr(reward, "max_subjects", None) for reward in rewards)
    return min((most for most in compared if most is not None), default=None)


def _least(rewards):
    heights, widths = zip(*(reward.least_size for reward in rewards), strict=True)
    return max(heights), max(widths)


def _joined(trees):
    return {key: value for name, tree in trees.items() for key, value in under(name, tree).items()}
