"""The examples that an entry left to learn from: pairs that refinement kept, or preferred pictures."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.files import read_json, write_bytes, write_json
from narrative_jax.core.options import parse
from narrative_jax.core.records import Example, Scene
from narrative_jax.data.backgrounds import BACKGROUNDS, GIVEN, Masks, on_white
from narrative_jax.runs.candidates import open_candidates
from narrative_jax.runs.directory import Context
from narrative_jax.runs.preferences import Pictures, makes_preferences, open_pictures, open_preferences
from narrative_jax.runs.scenes import open_scenes

REFINE = "refine"  # the stage
REJECTS = "rejects.jsonl"  # the others, each with its reason
KEPT = "kept.json"  # of a refine entry: the ids of the pictures that are learned from


class Pairs(NamedTuple):
    """So many pairs of a scene and a picture of it; `read` reads some; `origin` says where they are from."""

    count: int
    read: Callable[[Sequence[int]], list[Example]]
    origin: str


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


def background_of(context: Context, own: bool = False) -> Masks | None:
    """How the context's refine entry removes backgrounds, None where it does not.

    Raises InputError, also where it would take the masks of people's `own` subjects, which come without.
    """
    name = context.entry.get("background", GIVEN)
    if not name:
        return None
    check_name("background", name, BACKGROUNDS)
    if own and name == GIVEN:
        rule = "people's own subjects come without masks"
        raise InputError(f"{context.name}.background {GIVEN!r}", rule, "take 'isnet', which finds them, or ''")
    return parse(BACKGROUNDS[name], context.entry.get(name, {}), f"{context.name}.{name}")


def as_trained(context: Context, names: Iterable[str], scenes: Sequence[Scene]) -> dict[str, Sequence[Scene]]:
    """For each of these train entries the scenes as what it learned from showed them: refined if that was, or what it
    came after. Raises InputError as the background does.
    """
    shown = {"": scenes}
    for source in {_refined_by(context, name) for name in names} - {""}:
        by = background_of(context.of(source))
        shown[source] = [on_white(scene, by) for scene in scenes] if by else scenes
    return {name: shown[_refined_by(context, name)] for name in names}


def background_trained_on(context: Context, name: str) -> Masks | None:
    """How backgrounds of the subjects that the train entry learned from were removed, None where they were not."""
    source = _refined_by(context, name)
    return background_of(context.of(source)) if source else None


def check_own_shown(context: Context, names: Iterable[str]) -> None:
    """Raise InputError unless people's own subjects can be shown as these train entries' were."""
    for source in {_refined_by(context, name) for name in names} - {""}:
        background_of(context.of(source), own=True)


def _refined_by(context, name):
    """The refine entry that the train entry learned from, or what it came after; "" where there is none."""
    entry = context.config[name]
    for source in (entry.get("source", ""), entry.get("after", "")):
        stage = context.config[source].get("stage", "") if source else ""
        if stage in (REFINE, "train"):
            return source if stage == REFINE else _refined_by(context, source)
    return ""


def open_examples(context: Context, name: str) -> tuple[Pictures, Sequence[str]]:
    """The pictures that an entry left, and the ids of those to learn from, each once. Raises InputError."""
    if makes_preferences(context, name):
        records = open_preferences(context, name)
        return records.pictures, sorted({each.chosen_id for each in records.preferences if not each.tie})
    return open_pictures(context, name), read_json(context.path(name) / KEPT)
