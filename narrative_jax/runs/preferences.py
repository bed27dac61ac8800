"""The preferences that an entry left, and the pictures and scenes that they are about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Candidate, Preference, Scene
from narrative_jax.data.datasets import Records, open_records
from narrative_jax.runs.candidates import open_candidates, pictures_entry
from narrative_jax.runs.directory import Context
from narrative_jax.runs.scenes import open_scenes


@dataclass(frozen=True)
class Pictures:
    """Candidates and their scenes, with their rows by id."""

    candidates: Records
    scenes: Records
    candidate_rows: dict[str, int]
    scene_rows: dict[str, int]

    def candidate(self, id: str) -> Candidate:
        """The picture of this id."""
        return self.candidates[self.candidate_rows[id]]

    def scene(self, id: str) -> Scene:
        """The scene of this id."""
        return self.scenes[self.scene_rows[id]]

    def scene_ids(self, ids: Sequence[str]) -> list[str]:
        """What the pictures of these ids were drawn for; none is decoded."""
        asked = self.candidates.columns("scene_id")["scene_id"]
        return [asked[self.candidate_rows[id]] for id in ids]


class PreferenceRecords(NamedTuple):
    """`preferences` in order, and the pictures that they are about."""

    preferences: Sequence[Preference]
    pictures: Pictures


def makes_preferences(context: Context, name: str) -> bool:
    """Whether an entry leaves preferences: by screening, or with what it collects."""
    entry = context.config.get(name, {})
    return entry.get("stage", "") == "screen" or bool(entry.get("preferences", ""))


def has_preferences(context: Context, name: str) -> bool:
    """Whether an entry left any: screening may keep none."""
    return (context.path(name) / "preferences").exists()


def open_pictures(context: Context, name: str) -> Pictures:
    """The candidates that an entry left, with their scenes. Raises InputError for one of a scene that is not there."""
    candidates = open_candidates(context, name)
    scenes, scene_rows = open_scenes(candidates)
    return Pictures(candidates, scenes, candidates.rows_by("id"), scene_rows)


def open_preferences(context: Context, name: str) -> PreferenceRecords:
    """What an entry left. Raises InputError for damaged records, and for a preference between unknown pictures."""
    pictures = open_pictures(context, pictures_entry(context.config, name))
    preferences = list(open_records(context.path(name) / "preferences", Preference))
    named = (id for each in preferences for id in (each.chosen_id, each.rejected_id))
    if strange := [id for id in named if id not in pictures.candidate_rows]:
        rule = "a preference is about this picture, which is not there"
        raise InputError(f"{pictures.candidates.folder}: {strange[0]!r}", rule, f"do it again with --redo={name}")
    return PreferenceRecords(preferences, pictures)


def label(preference: Preference) -> str:
    """What messages call it."""
    return f"{preference.chosen_id} over {preference.rejected_id}"
