"""A generator that is trained: all of its denoiser, or an adapter on it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import ClassVar

from narrative_jax.algorithms.base import REFERENCE, REWARD, Algorithm, Models, Role
from narrative_jax.core.errors import InputError
from narrative_jax.core.types import Params
from narrative_jax.generators.base import Generator
from narrative_jax.models.lora import AdapterOptions, adapter_of
from narrative_jax.models.network import below, under
from narrative_jax.rewards.base import PureReward
from narrative_jax.runs.directory import Context
from narrative_jax.runs.generator import check_adapter, check_generator, preset_of
from narrative_jax.runs.rewards import open_pure_reward, reward_files, sections_of
from narrative_jax.runs.trained import Saver, beginning
from narrative_jax.trainees.base import Batches, TrainingSetOptions, check_kind, check_source
from narrative_jax.trainees.encoding import KINDS, check_records, forget_encoded
from narrative_jax.trainees.samples import Samples


@dataclass(frozen=True)
class GeneratorOptions:
    """With an `adapter` that alone is trained. `reward`, for algorithms with one in their loss, and its section.

    It comes `after` another train entry, on top of what that left, or "" first. With `keep_adapters` the adapter is
    kept whenever pictures show how far it is, each `sample_every` steps, for an entry that chooses among them.
    """

    adapter: AdapterOptions | None = None
    after: str = ""
    training_set: TrainingSetOptions | None = None
    reward: str = ""
    reward_from: str = ""
    sample_every: int = 0
    keep_adapters: bool = False

    def __post_init__(self):
        if self.keep_adapters and not (self.adapter and self.sample_every):
            rule = "an adapter is kept each sample_every steps"
            raise InputError("keep_adapters", rule, "set adapter and sample_every, or leave it out")
        if self.after and not self.adapter:
            rule = "all of the generator is trained, and what comes before it is an adapter or other weights"
            raise InputError(f"after {self.after!r}", rule, "train an adapter there")


@dataclass(frozen=True)
class GeneratorTrainee:
    """See `base.Trainee`. The reference is the stack without the adapter that is trained: it runs on `frozen` alone.

    `encoding` are the weights that batches are made with, which no step needs; `reward` judges what the policy draws,
    its weights under "reward." in `frozen`. `saver` writes what was trained.
    """

    Options: ClassVar[type] = GeneratorOptions
    kinds: ClassVar[tuple[str, ...]] = tuple(KINDS)

    context: Context
    options: GeneratorOptions
    base: Generator
    policy: Generator
    params: Params
    frozen: Params
    encoding: Params
    reference: Generator | None = None
    reward: PureReward | None = None
    saver: Saver | None = None

    @classmethod
    def sections(cls, context: Context) -> list[str]:
        """See `base.Trainee`."""
        return sections_of(context)

    @classmethod
    def check(cls, context: Context, algorithm: Algorithm, options: GeneratorOptions) -> None:
        """See `base.Trainee`."""
        check_kind(cls, context, algorithm)
        check_generator(context)
        check_source(context, options.training_set)
        if options.adapter:
            check_adapter(preset_of(context), options.adapter)
        elif REFERENCE in algorithm.roles:
            rule = f"{context.entry.algorithm} keeps a reference: the stack without the adapter that is trained"
            raise InputError(f"{context.name} without an adapter", rule, "set adapter, e.g. of rank 16")
        if (REWARD in algorithm.roles) != bool(options.reward):
            rule = f"{context.entry.algorithm} has {'one' if REWARD in algorithm.roles else 'none'} in its loss"
            raise InputError(f"{context.name}.reward {options.reward!r}", rule, "name a reward there, or leave it out")
        reward = open_pure_reward(context, from_disk=False) if options.reward else None
        check_records(context, algorithm, reward)
        algorithm.check_models(preset_of(context), reward)
        sampler = context.config.get("sampling", {}).get("sampler", "euler")
        if reward and sampler != "euler":
            rule = f"{context.entry.algorithm} follows Euler steps, and its pictures are drawn as all others"
            raise InputError(f"sampling.sampler {sampler!r}", rule, "set it to 'euler'")

    @classmethod
    def files(cls, context: Context) -> list:
        """See `base.Trainee`."""
        return list(reward_files(context))

    @classmethod
    def open(cls, context: Context, algorithm: Algorithm, options: GeneratorOptions) -> "GeneratorTrainee":
        """See `base.Trainee`."""
        reward = open_pure_reward(context) if options.reward else None
        base, weights = beginning(context)
        saver = Saver.on(context, base, weights, options.adapter)
        return cls.on(context, algorithm, options, base, weights, reward, saver)

    @classmethod
    def on(
        cls,
        context: Context,
        algorithm: Algorithm,
        options: GeneratorOptions,
        base: Generator,
        weights: Params,
        reward: PureReward | None = None,
        saver: Saver | None = None,
    ) -> "GeneratorTrainee":
        """On this base with these weights. Raises InputError."""
        policy = base
        if options.adapter:
            policy, weights = base.with_adapter(weights, context.name, **asdict(options.adapter))
        encoding = {name: value for name, value in weights.items() if base.encodes(name)}
        params = {name: value for name, value in weights.items() if _trains(name, base, context.name, options)}
        frozen = {name: value for name, value in weights.items() if name not in params.keys() | encoding.keys()}
        if reward:
            frozen |= under(REWARD, reward.params)
        reference = base if REFERENCE in algorithm.roles else None
        return cls(context, options, base, policy, params, frozen, encoding, reference, reward, saver)

    @property
    def axes(self) -> Mapping[str, tuple]:
        """See `base.Trainee`."""
        return {**self.policy.axes, **(under(REWARD, self.reward.axes) if self.reward else {})}

    def models(self, params: Params, frozen: Params) -> Models:
        """See `base.Trainee`."""
        reference = Role(self.reference, frozen) if self.reference else None
        reward = Role(self.reward, below(REWARD, frozen)) if self.reward else None
        return Models(Role(self.policy, {**frozen, **params}), reference, reward)

    def batches(self, algorithm: Algorithm) -> Batches:
        """See `base.Trainee`; with a reward, its `context` is in the batch."""
        return KINDS[algorithm.batch](self.context, self.base, {**self.frozen, **self.encoding}, algorithm, self.reward)

    @property
    def sample_every(self) -> int:
        """See `base.Trainee`."""
        return self.options.sample_every

    def sample(self, step: int, params: Params) -> None:
        """See `base.Trainee`; a grid of pictures of a few tune scenes."""
        weights = {**self.frozen, **self.encoding, **params}
        self._samples.draw(step, {name: weights[name] for name in self.policy.axes})  # without a reward's
        if self.options.keep_adapters:
            self.saver.keep(step, params)

    def save(self, params: Params) -> None:
        """See `base.Trainee`; in published names, and an adapter with the hash of what it was trained on."""
        self.saver.save(params)
        forget_encoded(self.context)

    @cached_property
    def _samples(self):
        return Samples(self.context, self.policy)


def _trains(name, generator, entry, options):
    """Whether a weight is trained: those of the entry's adapter, or all of the denoiser."""
    return adapter_of(name) == entry if options.adapter else name.startswith(f"{generator.denoiser}.")
