"""Takes in finished pictures, whoever drew them, as candidates of the scenes that they should show.

With them come people's preferences: among `pictures` by their ids, or pairs of picture files in `preferences` alone.
"""

import sys
from dataclasses import dataclass

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import write_json
from narrative_jax.core.options import File
from narrative_jax.core.records import Candidate
from narrative_jax.data.datasets import write_records
from narrative_jax.data.own_pairs import OwnPairs, find_pairs
from narrative_jax.data.photos import read_photo
from narrative_jax.data.sources import find_pictures, read_preferences
from narrative_jax.runs.chunks import leave_records
from narrative_jax.runs.directory import Context

_CHUNK = 64  # pictures between two looks at the stop flag
_SHOWN = 5  # of what is left out


@dataclass(frozen=True)
class Options:
    """See `data.sources.find_pictures` and `read_preferences`; without `pictures`, `data.own_pairs.find_pairs`.

    `damaged_policy` is "stop" or, to go on without damaged pictures, "drop".
    """

    pictures: File | None = None
    preferences: File | None = None
    damaged_policy: str = "stop"


def check(context: Context, options: Options) -> None:
    """Raise InputError for pictures, prompts or preferences that are missing or cannot be read."""
    given = {key: getattr(options, key) for key in ("pictures", "preferences") if getattr(options, key) is not None}
    for key in [key for key, value in given.items() if not value] or (() if given else ("pictures",)):
        remedy = f"set it in each entry that collects, e.g. --config.{context.name}.{key}=PATH"
        raise InputError(f"{key} ''", "there is no file to take them from", remedy)
    _find(options)


def run(context: Context, options: Options) -> dict[str, float]:
    """Write scenes, pictures and preferences, and in notices.json which pictures are left out; returns their numbers.

    Raises InputError, Stopped.
    """
    found = _find(options)
    if found.left_out and context.writes:
        more = f" and {len(found.left_out) - _SHOWN} more" if len(found.left_out) > _SHOWN else ""
        print(f"{context.name} leaves out: {'; '.join(found.left_out[:_SHOWN])}{more}", file=sys.stderr)
    if context.writes:
        write_json(context.folder / "notices.json", {"left_out": found.left_out})
        write_records(context.folder / "scenes", found.scenes)
        if found.preferences:
            write_records(context.folder / "preferences", found.preferences)

    def read(part):
        return [Candidate(id, scene_id, read_photo(file), 0, "collected") for id, scene_id, file in part]

    leave_records(context, context.folder, "candidates", Candidate, found.pictures, read, _CHUNK, context.name)
    numbers = {"pictures": len(found.pictures), "left_out": len(found.left_out)}
    return {**numbers, "preferences": len(found.preferences)} if found.preferences else numbers


def _find(options) -> OwnPairs:
    if options.pictures is None:
        return find_pairs(options.preferences, options.damaged_policy)
    pictures, left_out = find_pictures(options.pictures, options.damaged_policy)
    scenes = [scene for scene, _ in pictures]
    preferences = [] if options.preferences is None else read_preferences(options.preferences, scenes)
    return OwnPairs(scenes, [(scene.id, scene.id, file) for scene, file in pictures], preferences, left_out)
