"""Storybook's encoders while they are trained: each learns which two things belong together.

CLIP a caption and its picture, DINOv2's network two looks at one picture, the identity encoder a character's portrait
and a scene that shows the same character.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from flax import nnx

from narrative_jax.algorithms.base import Algorithm, Models, Role
from narrative_jax.core.errors import check_name
from narrative_jax.core.types import Params
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.generators.text import WEIGHTS as TEXT_WEIGHTS
from narrative_jax.models import clip, dinov2, id_encoder
from narrative_jax.models.checkpoints import Names, load_weights, save_weights
from narrative_jax.models.network import Network, below, split, under
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.models.tokenizer import TOKENIZER, Tokenizer, train_tokenizer
from narrative_jax.runs.directory import WEIGHTS, Context
from narrative_jax.trainees.base import Batches, TrainingSetOptions, check_kind, check_source, places
from narrative_jax.trainees.matches import Matches, captions_and_pictures, looks, portraits_and_scenes

_CAPTIONS = 5000  # captions that a new tokeniser learns its words from
_PROMPT = 16  # tokens of a caption that are read


@dataclass(frozen=True)
class EncoderOptions:
    """Which `encoder`, "clip", "dinov2" or "iresnet", and what it is trained on."""

    encoder: str
    training_set: TrainingSetOptions


@dataclass(frozen=True)
class EncoderTrainee:
    """See `base.Trainee`. The weights under `prefix` are published in the names `names`.

    `folder` is the entry's; `matches` of the `training_set` are what is trained on.
    """

    Options: ClassVar[type] = EncoderOptions
    kinds: ClassVar[tuple[str, ...]] = ("matches",)
    sample_every: ClassVar[int] = 0

    network: Network
    params: Params
    frozen: Params
    matches: Matches
    names: Names
    prefix: str = ""
    tokenizer: Tokenizer | None = None
    folder: Path | None = None
    training_set: Any = None

    @classmethod
    def sections(cls, context: Context) -> list[str]:
        """See `base.Trainee`."""
        return []

    @classmethod
    def check(cls, context: Context, algorithm: Algorithm, options: EncoderOptions) -> None:
        """See `base.Trainee`."""
        check_kind(cls, context, algorithm)
        check_name("encoder", options.encoder, ENCODERS)
        check_source(context, options.training_set)

    @classmethod
    def files(cls, context: Context) -> list:
        """See `base.Trainee`."""
        return []

    @classmethod
    def open(cls, context: Context, algorithm: Algorithm, options: EncoderOptions) -> "EncoderTrainee":
        """See `base.Trainee`; it begins at random, and CLIP with a tokeniser of the set's captions."""
        seed, tokenizer = context.config.seed + context.entry.get("seed", 0), partial(_captions, options.training_set)
        trainee = untrained(options.encoder, seed, tokenizer)
        return replace(trainee, folder=context.folder, training_set=options.training_set.open())

    @property
    def axes(self) -> Mapping[str, tuple]:
        """See `base.Trainee`."""
        return self.network.axes

    def models(self, params: Params, frozen: Params) -> Models:
        """See `base.Trainee`; the model is what has the network."""
        return Models(Role(self, {**frozen, **params}))

    def batches(self, algorithm: Algorithm) -> Batches:
        """See `base.Trainee`."""

        def make_batch(indices):
            ids, (first, second) = self.matches.of(self.training_set, indices)
            return ids, {"first": first, "second": second, "index": places(indices)}

        return Batches(len(self.training_set) * self.matches.per_example, make_batch)

    def sample(self, step: int, params: Params) -> None:
        """See `base.Trainee`: there is nothing to look at."""

    def save(self, params: Params) -> None:
        """See `base.Trainee`; with the tokeniser, and CLIP's text tower by itself, as a generator reads it."""
        params = {**self.frozen, **params}
        save_weights(self.folder / WEIGHTS, below(self.prefix, params) if self.prefix else params, self.names)
        if self.tokenizer:
            self.tokenizer.save(self.folder / TOKENIZER)
            save_weights(self.folder / TEXT_WEIGHTS, below("text", params), clip.CLIP_TEXT_NAMES)

    def load(self, file: Path) -> Params:
        """All weights, those that were saved as they are in the file. Raises InputError where they do not fit."""
        fresh = {**self.frozen, **self.params}
        if not self.prefix:
            return load_weights(file, fresh, self.names)
        return fresh | under(self.prefix, load_weights(file, below(self.prefix, fresh), self.names))


def untrained(kind: str, seed: int, tokenizer: Callable[[], Tokenizer]) -> EncoderTrainee:
    """The encoder of this kind at random; CLIP reads captions by what `tokenizer` gives."""
    return ENCODERS[kind](seed, tokenizer)


def _captions(training_set: TrainingSetOptions) -> Tokenizer:
    """One that knows the words of a training set's captions, which are the same in each kind."""
    count = min(_CAPTIONS, training_set.size)
    return train_tokenizer(scene.prompt for scene in storybook_scenes(training_set.split, count, training_set.seed))


def _clip(seed, tokenizer):
    tokenizer = tokenizer()
    text, vision = clip.CLIP_SIZES[STORYBOOK]
    text = replace(text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end)
    network, params = split(clip.Clip(text, vision, rngs=nnx.Rngs(seed)))
    matches = captions_and_pictures(tokenizer, _PROMPT)
    return EncoderTrainee(network, params, {}, matches, clip.CLIP_NAMES, tokenizer=tokenizer)


def _dinov2(seed, tokenizer):
    config = dinov2.DINOV2_SIZES[STORYBOOK]
    network, params = split(clip.TwoViews(dinov2.Dinov2Encoder(config, rngs=nnx.Rngs(seed))))
    return EncoderTrainee(network, params, {}, looks(config.image_size), dinov2.DINOV2_NAMES, "encoder")


def _iresnet(seed, tokenizer):
    config = id_encoder.IRESNET_SIZES[STORYBOOK]
    network, weights = split(clip.TwoViews(id_encoder.IResNet(config, rngs=nnx.Rngs(seed))))
    # Inference's batch norms: their statistics stay 0 and 1, scale and bias learn.
    frozen = {name: value for name, value in weights.items() if name.endswith(id_encoder.STATISTICS)}
    params = {name: value for name, value in weights.items() if name not in frozen}
    matches = portraits_and_scenes(config.image_size)
    return EncoderTrainee(network, params, frozen, matches, id_encoder.IRESNET_NAMES, "encoder")


ENCODERS = {"clip": _clip, "dinov2": _dinov2, "iresnet": _iresnet}
