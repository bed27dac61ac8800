"""The examples that an entry left to learn from: pairs that refinement kept, or preferred pictures."""

from collections.abc import Sequence

from narrative_jax.core.errors import check_name
from narrative_jax.core.files import read_json
from narrative_jax.core.options import parse
from narrative_jax.core.records import Scene
from narrative_jax.data.backgrounds import BACKGROUNDS, GIVEN, Masks, on_white
from narrative_jax.runs.directory import Context
from narrative_jax.runs.preferences import Pictures, makes_preferences, open_pictures, open_preferences

REFINE = "refine"  # the stage
REJECTS = "rejects.jsonl"  # the others, each with its reason
KEPT = "kept.json"  # of a refine entry: the ids of the pictures that are learned from


def makes_examples(context: Context, name: str) -> bool:
    """Whether an entry leaves examples."""
    return context.config.get(name, {}).get("stage", "") == REFINE or makes_preferences(context, name)


def background_of(context: Context) -> Masks | None:
    """How the context's refine entry removes backgrounds, None where it does not. Raises InputError."""
    name = context.entry.get("background", GIVEN)
    if not name:
        return None
    check_name("background", name, BACKGROUNDS)
    return parse(BACKGROUNDS[name], context.entry.get(name, {}), f"{context.name}.{name}")


def as_trained(context: Context, name: str, scenes: Sequence[Scene]) -> Sequence[Scene]:
    """The scenes as what the train entry learned from showed them: refined if it was, or what it came after."""
    entry = context.config[name]
    for source in (entry.get("source", ""), entry.get("after", "")):
        section = context.config.get(source, {}) if source else {}
        if section.get("stage", "") == REFINE:
            by = background_of(context.of(source))
            return [on_white(scene, by) for scene in scenes] if by else scenes
        if section.get("stage", "") == "train":
            return as_trained(context, source, scenes)
    return scenes


def open_examples(context: Context, name: str) -> tuple[Pictures, Sequence[str]]:
    """The pictures that an entry left, and the ids of those to learn from, each once. Raises InputError."""
    if makes_preferences(context, name):
        records = open_preferences(context, name)
        return records.pictures, sorted({each.chosen_id for each in records.preferences if not each.tie})
    return open_pictures(context, name), read_json(context.path(name) / KEPT)
