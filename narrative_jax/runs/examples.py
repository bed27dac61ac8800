"""The examples that an entry left to learn from: pairs that refinement kept, or preferred pictures."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.files import read_json, write_bytes, write_json
from narrative_jax.core.records import Example, Scene
from narrative_jax.data.datasets import open_records
from narrative_jax.runs.backgrounds import check_own_subjects
from narrative_jax.runs.candidates import REFINE, open_candidates, pictures_entry
from narrative_jax.runs.collected import check_collected, collect_entries
from narrative_jax.runs.directory import Context
from narrative_jax.runs.generator import preset_of
from narrative_jax.runs.preferences import Pictures, makes_preferences, open_pictures, open_preferences
from narrative_jax.runs.scenes import open_scenes

REJECTS = "rejects.jsonl"  # the others, each with its reason
KEPT = "kept.json"  # of a refine entry: the ids of the pictures that are learned from


class Pairs(NamedTuple):
    """So many pairs of a scene and a picture of it; `read` reads some; `origin` says where they are from."""

    count: int
    read: Callable[[Sequence[int]], list[Example]]
    origin: str


def check_pairs(context: Context, source: str) -> None:
    """Raise InputError unless `source` collects pairs that the generator can learn from, with masks where the context's
    entry takes them.
    """
    check_name("source of pairs", source, collect_entries(context.config))
    check_collected(context, source, preset_of(context).image_size)
    check_own_subjects(context, source)


def open_pairs(context: Context, source: str, training_set: Any) -> Pairs:
    """Those of a training set's options, or without one what a collect entry took in."""
    if training_set:
        drawn = training_set.open()
        return Pairs(len(drawn), drawn.batch, "training set")
    candidates = open_candidates(context, source)
    scenes, row_of = open_scenes(candidates)

    def read(rows):
        found = [candidates[row] for row in rows]
        return [Example(scenes[row_of[each.scene_id]], each.image) for each in found]

    return Pairs(len(candidates), read, "collected")


def leave_kept(folder: Path, ids: Sequence[str], rejects: Sequence[Mapping[str, Any]]) -> None:
    """Write which pairs are learned from, and the others with their reasons."""
    write_bytes(folder / REJECTS, "".join(f"{json.dumps(each)}\n" for each in rejects).encode())
    write_json(folder / KEPT, list(ids))


def check_leaves(context: Context, source: str, kind: str) -> None:
    """Raise InputError unless an entry leaves the records, of a `kind` that algorithms name, that are learned from."""
    given, prefers = f"source {source!r}", makes_preferences(context, source)
    if kind == "preferences" and not prefers:
        raise InputError(given, "that entry makes no preferences", "name one that screens, or collects them")
    if kind == "examples" and not prefers and context.config.get(source, {}).get("stage", "") != REFINE:
        rule = "that entry makes neither preferences nor examples"
        raise InputError(given, rule, "name one that screens, collects preferences, or refines")


def open_examples(context: Context, name: str) -> tuple[Pictures, Sequence[str]]:
    """The pictures that an entry left, and the ids of those to learn from, each once. Raises InputError."""
    if makes_preferences(context, name):
        records = open_preferences(context, name)
        return records.pictures, sorted({each.chosen_id for each in records.preferences if not each.tie})
    return open_pictures(context, name), read_json(context.path(name) / KEPT)


def open_learned_scenes(context: Context, name: str) -> tuple[Callable[[str], Scene], list[str]]:
    """How a scene is found by its id, and the ids of those that an entry left to learn from: of refined ones the kept.

    Raises InputError.
    """
    records = open_records(context.path(pictures_entry(context.config, name)) / "scenes", Scene)
    rows = records.rows_by("id")
    ids = list(rows)
    if context.config[name].stage == REFINE:
        pictures, kept = open_examples(context, name)
        ids = list(dict.fromkeys(pictures.scene_ids(kept)))
    return lambda id: records[rows[id]], ids
