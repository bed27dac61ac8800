"""Batches for training: records in, arrays out, made on the host while the device is busy.

Each function gives the number of elements and `make_batch(indices) -> (ids, batch)`.
"""

from collections.abc import Callable

import jax
import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float
from narrative_jax.core.records import Candidate, Preference, Scene
from narrative_jax.data.datasets import open_records
from narrative_jax.data.sources import storybook_training_set
from narrative_jax.generators.base import Generator
from narrative_jax.rewards.base import PureReward
from narrative_jax.stages.base import Context
from narrative_jax.stages.encoders import Matches

Maker = tuple[int, Callable[[np.ndarray], tuple[list[str], dict]]]


def pairs(context: Context, generator: Generator) -> Maker:
    """Preferences of the screen entry `source` as latents of both pictures, conditioning and gap."""
    preferences, candidates, scenes = _screened(context)

    def make_batch(indices):
        chosen_ids = [preferences[i] for i in indices]
        chosen, rejected = ([candidates(getattr(p, key)) for p in chosen_ids] for key in ("chosen_id", "rejected_id"))
        batch = {
            "chosen": generator.encode_images(np.stack([candidate.image for candidate in chosen])),
            "rejected": generator.encode_images(np.stack([candidate.image for candidate in rejected])),
            "conditioning": generator.encode([scenes(candidate.scene_id) for candidate in chosen]),
            "gap": np.float32([preference.gap for preference in chosen_ids]),
            "index": _places(indices),
        }
        return [f"{p.chosen_id} over {p.rejected_id}" for p in chosen_ids], batch

    return len(preferences), make_batch


def examples(context: Context, generator: Generator) -> Maker:
    """Pictures and their scenes: the chosen ones of the screen entry `source`, or a Storybook training set."""
    entry = context.entry
    if entry.source:
        preferences, candidates, scenes = _screened(context)
        chosen = sorted({preference.chosen_id for preference in preferences})

        def look_up(indices):
            found = [candidates(chosen[i]) for i in indices]
            return [(scenes(candidate.scene_id), candidate.image) for candidate in found]

        size = len(chosen)
    else:
        training_set = storybook_training_set(**entry.training_set)

        def look_up(indices):
            return [(example.scene, example.target) for example in training_set.batch(indices)]

        size = len(training_set)

    def make_batch(indices):
        asked, targets = zip(*look_up(indices), strict=True)
        batch = {
            "latents": generator.encode_images(np.stack(targets)),
            "conditioning": generator.encode(asked),
            "index": _places(indices),
        }
        return [scene.id for scene in asked], batch

    return size, make_batch


def matches(context: Context, pairs: Matches) -> Maker:
    """Things that belong together, of a Storybook training set."""
    training_set = storybook_training_set(**context.entry.training_set)

    def make_batch(indices):
        ids, (first, second) = pairs.of(training_set, indices)
        return ids, {"first": first, "second": second, "index": _places(indices)}

    return len(training_set) * pairs.per_example, make_batch


def preferences(context: Context, reward: PureReward, fitted: Callable) -> Maker:
    """Preferences of the entry `source`: both pictures, `fitted` to one size, and what the reward reads in the scene.

    Raises InputError for preferences on several aspects.
    """
    found, candidates, scenes = _screened(context)
    aspects = sorted({preference.aspect for preference in found})
    if len(aspects) > 1:
        rule = "one reward learns what is preferred on one of them"
        raise InputError(f"preferences on {', '.join(aspects)}", rule, "give those of one aspect")

    def make_batch(indices):
        asked = [found[i] for i in indices]
        chosen, rejected = ([candidates(getattr(p, key)) for p in asked] for key in ("chosen_id", "rejected_id"))
        batch = {
            "chosen": to_float(np.stack([fitted(candidate.image) for candidate in chosen])),
            "rejected": to_float(np.stack([fitted(candidate.image) for candidate in rejected])),
            "context": reward.encode([scenes(candidate.scene_id) for candidate in chosen]),
            "tie": np.array([preference.tie for preference in asked]),
            "index": _places(indices),
        }
        return [f"{p.chosen_id} over {p.rejected_id}" for p in asked], batch

    return len(found), make_batch


def _screened(context):
    """Preferences in order, and the candidates and scenes that they refer to, by id."""
    config, judged = context.config, context.entry.source
    preferences = list(open_records(context.path(judged) / "preferences", Preference))
    # A screen entry reads a score entry, which reads where the pictures are; people's own come with them.
    source = context.path(config[config[judged].source].source if "source" in config[judged] else judged)
    return preferences, _by_id(source / "candidates", Candidate), _by_id(source / "scenes", Scene)


def _by_id(folder, record_type):
    records = open_records(folder, record_type)
    rows = {record.id: row for row, record in enumerate(records)}
    return lambda id: records[rows[id]]


def _places(indices):
    """Places in the global batch of this process's part of it."""
    return np.int32(jax.process_index() * len(indices) + np.arange(len(indices)))
