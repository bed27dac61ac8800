"""How often trained encoders find the other half of a pair among those of many others."""

import jax
import numpy as np

from narrative_jax import statistics
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.data.sources import storybook_training_set
from narrative_jax.stages.base import Context
from narrative_jax.stages.encoders import Encoder, new_encoder

INPUTS = ("trained",)


def check(config, entry) -> None:
    """Raise InputError for a set that does not exist, and for entries that train no encoder."""
    check_count("pairs", entry.pairs, minimum=2)
    storybook_training_set(entry.kind, entry.pairs, entry.seed, entry.split)
    for name in entry.trained:
        if "encoder" not in config[name]:
            raise InputError(f"trained {name!r}", "it trains no encoder", "name entries of configs/encoders.py")


def run(context: Context) -> dict[str, float]:
    """The share of pairs whose second half is the nearest of all second halves to the first, and the other way round.

    `pairs` of true scenes of the split, one a scene. Returns <entry>/{second,first}{,_low,_high} and `chance`.
    """
    entry = context.entry
    numbers = {"chance": 1 / entry.pairs}
    for name in entry.trained:
        encoder = new_encoder(context, name)
        similarity = _similarity(encoder, encoder.load(context.path(name)), entry)
        for half, table in {"second": similarity, "first": similarity.T}.items():
            found = statistics.wilson(int((table.argmax(1) == np.arange(entry.pairs)).sum()), entry.pairs)
            numbers |= {
                f"{name}/{half}": found.estimate,
                f"{name}/{half}_low": found.low,
                f"{name}/{half}_high": found.high,
            }
            print(f"{name}: {half} half found in {found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]", flush=True)
    return numbers


def _similarity(encoder: Encoder, params, entry) -> np.ndarray:
    """Cosines f32[pairs, pairs] of first and second halves."""
    training_set = storybook_training_set(entry.kind, entry.pairs, entry.seed, entry.split)
    _, halves = encoder.pairs.of(training_set, np.arange(entry.pairs) * encoder.pairs.per_example)
    first, second = jax.jit(lambda params, *halves: encoder.network.bind(params)(*halves))(params, *halves)
    return np.asarray(first @ second.T)
