"""How often encoders find the other half of a pair among those of many others."""

from functools import partial
from pathlib import Path

import jax
import numpy as np

from narrative_jax import statistics
from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.data.sources import storybook_training_set
from narrative_jax.models.shipped import STORYBOOK, weights_file
from narrative_jax.models.tokenizer import TOKENIZER, Tokenizer
from narrative_jax.stages.base import Context
from narrative_jax.stages.common import WEIGHTS
from narrative_jax.stages.encoders import ENCODERS, Encoder, new_encoder

INPUTS = ("trained",)


def check(config, entry) -> None:
    """Raise InputError for a set that does not exist, and for entries that train no encoder."""
    check_count("pairs", entry.pairs, minimum=2)
    storybook_training_set(entry.kind, entry.pairs, entry.seed, entry.split)
    for name in entry.trained:
        if "encoder" not in config[name]:
            raise InputError(f"trained {name!r}", "it trains no encoder", "name entries of configs/encoders.py")
    for kind in entry.embedded:
        check_name("embedded encoder", kind, ENCODERS)
    if not (entry.trained or entry.embedded):
        raise InputError("no encoder", "trained names entries, embedded what ships", "name one")


def run(context: Context) -> dict[str, float]:
    """The share of pairs whose second half is the nearest of all second halves to the first, and the other way round.

    `pairs` of true scenes of the split, one a scene, by the `trained` entries and by the `embedded` encoders. Returns
    <name>/{second,first}{,_low,_high}, where embedded ones are called embedded_<kind>, and `chance`.
    """
    entry = context.entry
    numbers = {"chance": 1 / entry.pairs}
    for name, (kind, weights) in _weights(context).items():
        encoder = new_encoder(kind, 0, partial(Tokenizer.load, weights.with_name(TOKENIZER)))
        similarity = _similarity(encoder, encoder.load(weights), entry)
        for half, table in {"second": similarity, "first": similarity.T}.items():
            found = statistics.wilson(int((table.argmax(1) == np.arange(entry.pairs)).sum()), entry.pairs)
            numbers |= {
                f"{name}/{half}": found.estimate,
                f"{name}/{half}_low": found.low,
                f"{name}/{half}_high": found.high,
            }
            print(f"{name}: {half} half found in {found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]", flush=True)
    return numbers


def _weights(context: Context) -> dict[str, tuple[str, Path]]:
    """Kind and file of each encoder."""
    trained = {name: (context.config[name].encoder, context.path(name) / WEIGHTS) for name in context.entry.trained}
    embedded = {f"embedded_{kind}": (kind, weights_file("", STORYBOOK, kind)) for kind in context.entry.embedded}
    return trained | embedded


def _similarity(encoder: Encoder, params, entry) -> np.ndarray:
    """Cosines f32[pairs, pairs] of first and second halves."""
    training_set = storybook_training_set(entry.kind, entry.pairs, entry.seed, entry.split)
    _, halves = encoder.pairs.of(training_set, np.arange(entry.pairs) * encoder.pairs.per_example)
    first, second = jax.jit(lambda params, *halves: encoder.network.bind(params)(*halves))(params, *halves)
    return np.asarray(first @ second.T)
