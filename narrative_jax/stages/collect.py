"""Takes in finished pictures, whoever drew them, as candidates of the scenes that they should show.

With them come, where an entry names a file of `preferences`, those of people among them.
"""

import shutil

from tqdm import tqdm

from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.core.records import Candidate
from narrative_jax.data.datasets import finished_chunks, pack_chunks, write_chunk, write_records
from narrative_jax.data.sources import find_pictures, read_photo, read_preferences
from narrative_jax.stages.base import Context

_CHUNK = 64  # pictures between two looks at the stop flag


def check(config, entry) -> None:
    """Raise InputError for pictures, prompts or preferences that are missing or cannot be read."""
    for option in ("pictures", "preferences"):
        if not entry.get(option, True):
            remedy = f"set it in each entry that collects, e.g. --config.collect.{option}=FILE"
            raise InputError(f"{option} ''", "there is no file to take them from", remedy)
    found = find_pictures(entry.pictures)
    if "preferences" in entry:
        read_preferences(entry.preferences, [scene for scene, _ in found])


def run(context: Context) -> dict[str, float]:
    """Write a scene and a candidate of its id for each picture; returns their number. Raises InputError, Stopped."""
    found = find_pictures(context.entry.pictures)
    write_records(context.folder / "scenes", [scene for scene, _ in found])
    chunks, done = context.folder / "chunks", context.folder / "candidates"
    if not done.exists():
        finished = finished_chunks(chunks)
        for number, start in enumerate(tqdm(range(0, len(found), _CHUNK), desc=context.name, unit="chunk")):
            if number in finished:
                continue
            if context.stop.requested:
                raise Stopped
            part = found[start : start + _CHUNK]
            write_chunk(chunks, number, [Candidate(s.id, s.id, read_photo(file), 0, "collected") for s, file in part])
        pack_chunks(chunks, done, Candidate)
    shutil.rmtree(chunks, ignore_errors=True)
    if "preferences" not in context.entry:
        return {"pictures": len(found)}
    preferences = read_preferences(context.entry.preferences, [scene for scene, _ in found])
    return {"pictures": len(found), "preferences": write_records(context.folder / "preferences", preferences)}
