"""Takes in finished pictures, whoever drew them, as candidates of the scenes that they should show.

With them come people's preferences: among `pictures` by their ids, or pairs of picture files in `preferences` alone.
`examples` show each picture's subject in another one: Parquet files of Subjects200K, or a folder of photos for each
subject as DreamBooth has them.
"""

import sys
from collections import defaultdict

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import write_json
from narrative_jax.core.records import Candidate, Scene
from narrative_jax.data.datasets import write_records
from narrative_jax.data.photos import read_photo
from narrative_jax.data.published_pairs import is_published
from narrative_jax.runs.chunks import leave_kinds
from narrative_jax.runs.collected import CollectOptions
from narrative_jax.runs.directory import Context

Options = CollectOptions
_CHUNK = 64  # scenes between two looks at the stop flag
_SHOWN = 5  # of what is left out


def check(context: Context, options: Options) -> None:
    """Raise InputError for pictures, prompts or preferences that are missing or cannot be read."""
    files = {key: getattr(options, key) for key in ("pictures", "preferences", "examples")}
    given = {key: value for key, value in files.items() if value is not None}
    if options.preferences and is_published(options.preferences) and not options.pictures:
        given.pop("pictures", None)  # they bring their own
    for key in [key for key, value in given.items() if not value] or (() if given else ("pictures",)):
        remedy = f"set it in each entry that collects, e.g. --config.{context.name}.{key}=PATH"
        raise InputError(f"{key} ''", "there is no file to take them from", remedy)
    options.find()


def run(context: Context, options: Options) -> dict[str, float]:
    """Write scenes, pictures and preferences, and in notices.json which pictures are left out; returns their numbers.

    Raises InputError, Stopped.
    """
    found, shown = options.find(), defaultdict(list)
    if found.left_out and context.writes:
        more = f" and {len(found.left_out) - _SHOWN} more" if len(found.left_out) > _SHOWN else ""
        print(f"{context.name} leaves out: {'; '.join(found.left_out[:_SHOWN])}{more}", file=sys.stderr)
    if context.writes:
        write_json(context.folder / "notices.json", {"left_out": found.left_out})
        if found.preferences:
            write_records(context.folder / "preferences", found.preferences)
    for id, scene_id, picture in found.pictures:
        shown[scene_id].append((id, picture))

    def read(part):
        pictures = [(id, scene.id, read_photo(picture)) for scene in part for id, picture in shown[scene.id]]
        return {"scenes": part, "candidates": [Candidate(*picture, 0, "collected") for picture in pictures]}

    kinds = {"scenes": Scene, "candidates": Candidate}
    leave_kinds(context, context.folder, kinds, found.scenes, read, _CHUNK, context.name)
    numbers = {"pictures": len(found.pictures), "left_out": len(found.left_out)}
    return {**numbers, "preferences": len(found.preferences)} if found.preferences else numbers
