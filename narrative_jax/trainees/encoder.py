"""An encoder that is trained to tell what belongs together."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from narrative_jax.algorithms.base import Algorithm, Models, Role
from narrative_jax.core.errors import check_name
from narrative_jax.core.types import Params
from narrative_jax.models.tokenizer import train_tokenizer
from narrative_jax.runs.directory import WEIGHTS, Context
from narrative_jax.trainees.base import Batches, TrainingSetOptions, check_kind, check_source
from narrative_jax.trainees.drawn import DrawnExamples, WithDrawn, check_drawn
from narrative_jax.trainees.new_encoders import NEW_ENCODERS, NewEncoder, new_encoder

_EVERY = 4  # every fourth example is a drawn one
_CAPTIONS = 5000  # captions that a new tokeniser learns its words from


@dataclass(frozen=True)
class EncoderOptions:
    """Which `encoder`, "clip", "dinov2" or "iresnet", and what it is trained on.

    With `drawn`, an entry, every fourth example is one of the pictures that it drew instead. It begins as the train
    entry `after` left it, "" at random.
    """

    encoder: str
    training_set: TrainingSetOptions
    drawn: str = ""
    after: str = ""


@dataclass(frozen=True)
class EncoderTrainee:
    """See `base.Trainee`."""

    Options: ClassVar[type] = EncoderOptions
    kinds: ClassVar[tuple[str, ...]] = ("matches",)
    sample_every: ClassVar[int] = 0

    context: Context
    options: EncoderOptions
    encoder: NewEncoder

    @classmethod
    def sections(cls, context: Context) -> list[str]:
        """See `base.Trainee`."""
        return []

    @classmethod
    def check(cls, context: Context, algorithm: Algorithm, options: EncoderOptions) -> None:
        """See `base.Trainee`."""
        check_kind(cls, context, algorithm)
        check_name("encoder", options.encoder, NEW_ENCODERS)
        check_source(context, options.training_set)
        if options.drawn:
            check_drawn(context, options.drawn)
        if options.after:
            names = context.config.stages[: context.config.stages.index(context.name)]
            known = [name for name in names if context.config[name].get("encoder", "") == options.encoder]
            check_name(f"entry with this encoder that {context.name} comes after", options.after, known)

    @classmethod
    def files(cls, context: Context) -> list:
        """See `base.Trainee`."""
        return []

    @classmethod
    def open(cls, context: Context, algorithm: Algorithm, options: EncoderOptions) -> "EncoderTrainee":
        """See `base.Trainee`; CLIP has a tokeniser of the set's captions."""

        def tokenizer():
            return train_tokenizer(scene.prompt for scene in options.training_set.scenes(_CAPTIONS))

        seed = context.config.seed + context.entry.get("seed", 0)
        encoder = new_encoder(options.encoder, seed, tokenizer)
        if options.after:
            encoder = replace(encoder, weights=encoder.load(context.path(options.after) / WEIGHTS))
        return cls(context, options, encoder)

    @property
    def axes(self) -> Mapping[str, tuple]:
        """See `base.Trainee`."""
        return self.encoder.network.axes

    @property
    def params(self) -> Params:
        """See `base.Trainee`."""
        return {name: value for name, value in self.encoder.weights.items() if not name.endswith(self.encoder.fixed)}

    @property
    def frozen(self) -> Params:
        """See `base.Trainee`."""
        return {name: value for name, value in self.encoder.weights.items() if name.endswith(self.encoder.fixed)}

    def models(self, params: Params, frozen: Params) -> Models:
        """See `base.Trainee`."""
        return Models(Role(self.encoder, {**frozen, **params}))

    def batches(self, algorithm: Algorithm) -> Batches:
        """See `base.Trainee`."""
        examples, matches = self.options.training_set.open(), self.encoder.matches
        if self.options.drawn:
            examples = WithDrawn(examples, DrawnExamples(self.context, self.options.drawn), _EVERY)

        def make_batch(indices):
            ids, (first, second) = matches.of(examples, indices)
            return ids, {"first": first, "second": second}

        return Batches(len(examples) * matches.per_example, make_batch)

    def sample(self, step: int, params: Params) -> None:
        """See `base.Trainee`: there is nothing to look at."""

    def save(self, params: Params) -> None:
        """See `base.Trainee`; see `NewEncoder.save`."""
        self.encoder.save(self.context.folder, WEIGHTS, {**self.frozen, **params})
