"""How often encoders find the other half of a pair among those of many others."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from narrative_jax import statistics
from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.models.shipped import STORYBOOK, weights_file
from narrative_jax.models.tokenizer import TOKENIZER, Tokenizer
from narrative_jax.runs.directory import WEIGHTS, Context
from narrative_jax.trainees.base import TrainingSetOptions
from narrative_jax.trainees.new_encoders import NEW_ENCODERS, NewEncoder, new_encoder

INPUTS = ("trained",)
ALONE = True


@dataclass(frozen=True)
class Options:
    """`pairs` of a set's examples, one an example; the encoders of entries, and those that ship."""

    kind: str
    pairs: int
    split: str = "tune"
    seed: int = 0
    trained: tuple[str, ...] = ()
    embedded: tuple[str, ...] = ()

    @property
    def examples(self) -> TrainingSetOptions:
        """The set."""
        return TrainingSetOptions(self.kind, self.pairs, self.seed, self.split)


def check(context: Context, options: Options) -> None:
    """Raise InputError for a set that does not exist, and for entries that train no encoder."""
    check_count("pairs", options.pairs, minimum=2)
    options.examples.open()
    for name in options.trained:
        if "encoder" not in context.config[name]:
            raise InputError(f"trained {name!r}", "it trains no encoder", "name entries of configs/encoders.py")
    for kind in options.embedded:
        check_name("embedded encoder", kind, NEW_ENCODERS)
    if not (options.trained or options.embedded):
        raise InputError("no encoder", "trained names entries, embedded what ships", "name one")


def run(context: Context, options: Options) -> dict[str, float]:
    """The share of pairs whose second half is the nearest of all second halves to the first, and the other way round.

    `pairs` of true scenes of the split, one a scene, by the `trained` entries and by the `embedded` encoders. Returns
    <name>/{second,first}{,_low,_high}, where embedded ones are called embedded_<kind>, and `chance`.
    """
    numbers = {"chance": 1 / options.pairs}
    for name, kind, weights in _weights(context, options):
        encoder = new_encoder(kind, 0, partial(Tokenizer.load, weights.with_name(TOKENIZER)))
        similarity = _similarity(encoder, encoder.load(weights), options)
        for half, table in {"second": similarity, "first": similarity.T}.items():
            found = statistics.wilson(int((table.argmax(1) == np.arange(options.pairs)).sum()), options.pairs)
            ends = {"": found.estimate, "_low": found.low, "_high": found.high}
            numbers |= {f"{name}/{half}{end}": value for end, value in ends.items()}
            print(f"{name}: {half} half found in {found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]", flush=True)
    return numbers


def _weights(context: Context, options: Options) -> Iterator[tuple[str, str, Path]]:
    """Name, kind and file of each encoder."""
    for name in options.trained:
        yield name, context.config[name].encoder, context.path(name) / WEIGHTS
    for kind in options.embedded:
        yield f"embedded_{kind}", kind, weights_file("", STORYBOOK, kind)


def _similarity(encoder: NewEncoder, params, options) -> np.ndarray:
    """Cosines f32[pairs, pairs] of first and second halves."""
    rows = np.arange(options.pairs) * encoder.matches.per_example
    _, halves = encoder.matches.of(options.examples.open(), rows)
    first, second = jax.jit(lambda params, *halves: encoder.network.bind(params)(*halves))(params, *halves)
    return np.asarray(first @ second.T)
