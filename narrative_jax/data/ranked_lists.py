"""Published lists in JSON of pictures and how people ranked them: HPDv2, HPDv3 and ImageRewardDB."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from narrative_jax.core.errors import InputError
from narrative_jax.core.hashing import LISTED_IN
from narrative_jax.core.text import read_text
from narrative_jax.data.photos import check_picture, find_file
from narrative_jax.data.ranked import FILES_KEPT, Looked, Ranked, checked


def _two(item):
    return item["file_path"], [1 - each for each in item["human_preference"]]


def _first_of_two(item):
    votes = item.get("choice_dist") or (1, 0)
    return [item["path1"], item["path2"]], [0, 0 if votes[0] == votes[1] else 1]


# By the fields that each has: the pictures of an item and their ranks.
_LISTS: Mapping[tuple[str, ...], Callable[[dict], tuple[list[str], list[float]]]] = {
    ("prompt", "file_path", "human_preference"): _two,
    ("prompt", "image_path", "rank"): lambda item: (item["image_path"], item["rank"]),
    ("prompt", "path1", "path2"): _first_of_two,
    ("prompt", "generations", "ranking"): lambda item: (item["generations"], item["ranking"]),
}


@lru_cache(maxsize=FILES_KEPT)
def look_at_list(path: Path, _changed: int, name: str) -> Looked:
    """What a list holds, told by its first item's fields; `_changed` is the file's time, scenes are called by `name`.

    Raises InputError.
    """
    items = _items(path)
    fields = next((fields for fields in _LISTS if items and set(fields) <= items[0].keys()), None)
    if fields is None:
        known = "; ".join(", ".join(each) for each in _LISTS)
        given = f"{path} of {', '.join(items[0]) if items else 'nothing'}"
        raise InputError(given, f"it is no list of published preferences ({known})", "give one of these")
    looked = Looked([], [], 0)
    for number, item in enumerate(tqdm(items, f"{path}", delay=5)):
        given = f"{path}, item {number}"
        try:
            looked.ranked.append(_item(path, f"{name}/{number}", item, fields))
        except InputError as error:
            looked.damaged.append((given, f"{error.args[0]}: {error.args[1]}"))
        except (LookupError, TypeError, ValueError, AttributeError):
            looked.damaged.append((given, f"its fields {', '.join(fields)} are no good"))
    return looked


def _items(path) -> list[dict[str, Any]]:
    try:
        items = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}", f"it is no JSON ({error})", "give a whole one") from error
    if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
        raise InputError(f"{path}", "it is no list of objects", "give a list of published preferences")
    return items


def _item(path, id, item, fields) -> Ranked:
    """Raises InputError for pictures that are no good, and for fields that are none whatever Python does."""
    names, ranks = _LISTS[fields](item)
    files = [_beside(path.parent, name) for name in names]
    for file in files:
        check_picture(file, file.name)
    return checked(Ranked(id, item["prompt"].strip(), files, [float(each) for each in ranks]), Path.read_bytes)


def _beside(folder, name):
    """A picture's file, in the folder or in one of `LISTED_IN`."""
    files = [find_file(folder / each, name) for each in LISTED_IN]
    return next((file for file in files if file.exists()), files[0])
