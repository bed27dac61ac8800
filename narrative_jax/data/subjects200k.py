"""Subjects200K (Tan et al. 2024, OminiControl): two pictures of one subject side by side, in Parquet files.

A row has `image`, both pictures in one file; `description`, what the left (description_0) and the right one
(description_1) show, with the subject as `item` and `category`; and `quality_assessment`, three ratings from 0 to 5. A
picture of each side is the target of one example, whose subject is seen in the other.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.records import Scene, Subject
from narrative_jax.data.parquet import column_of, opened
from narrative_jax.data.photos import DAMAGED_POLICIES, DamagedPictureError, decode_photo, size_of_whole
from narrative_jax.data.subject_photos import Photos

GOOD = 5  # what the data set's authors ask of all three ratings
BEST = 5
SIDES = (1024, 512)  # of one picture, in pixels
MOST_PADDING = 16  # pixels around each picture
_RATINGS = ("compositeStructure", "objectConsistency", "imageQuality")
_PROMPTS = ("description_0", "description_1")
_BYTES, _TEXT = (pa.types.is_binary, pa.types.is_large_binary), (pa.types.is_string, pa.types.is_large_string)
_COLUMNS = {  # their fields, and of which types these may be
    "image": (("bytes",), _BYTES),
    "description": (_PROMPTS, _TEXT),
    "quality_assessment": (_RATINGS, (pa.types.is_integer, pa.types.is_floating)),
}
_SMALL = ["description", "quality_assessment"]
_FILES_KEPT = 64  # as looked through: more than the data set has
_PICTURES_KEPT = 2  # in memory: examples are read in order


@dataclass(frozen=True)
class Panel:
    """A picture of `side` × `side` pixels in a row of a group of a Parquet file, read when it is asked for."""

    file: Path
    group: int
    row: int
    left: int
    top: int
    side: int

    def __str__(self) -> str:
        return f"{self.file}, row {self.row} of group {self.group}"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.side, self.side

    def read(self) -> np.ndarray:
        """u8[side, side, 3]. Raises InputError."""
        both = _decoded(self.file, self.stat().st_mtime_ns, self.group, self.row, f"{self}")
        return both[self.top : self.top + self.side, self.left : self.left + self.side]

    def stat(self) -> os.stat_result:
        """Of the file."""
        return self.file.stat()


class _Row(NamedTuple):
    """A row without its picture; `number` is counted through the file, `row` through the group."""

    number: int
    group: int
    row: int
    description: dict


class _Looked(NamedTuple):
    """The examples of a file, the damaged rows with their reasons, and how many are too badly rated, of how many."""

    pairs: list[tuple[Scene, Panel]]
    damaged: list[tuple[int, str]]
    bad: int
    rows: int


def read_subjects200k(
    files: Sequence[Path], quality: int, damaged_policy: str
) -> tuple[list[tuple[Scene, Panel]], list[str]]:
    """The examples of Parquet files, a scene and its picture each, and what is left out.

    All pictures are looked at, and decoded when they are asked for. Rows of which a rating is below `quality` are left
    out, and so are rows without ratings unless it is 0. A row without a picture of two squares or their descriptions,
    or with a damaged one, raises InputError under the policy "stop" and is left out under "drop".
    """
    check_count("quality", quality)
    if quality > BEST:
        raise InputError(f"quality {quality}", f"ratings are from 0 to {BEST}", f"give one, e.g. {GOOD}")
    check_name("damaged_policy", damaged_policy, DAMAGED_POLICIES)
    names = Counter(file.stem for file in files)
    if twice := next((name for name, count in names.items() if count > 1), None):
        same = " and ".join(str(file) for file in files if file.stem == twice)
        raise InputError(same, "examples are told apart by the names of their files", "rename one")
    pairs, left_out = [], []
    for file in files:
        looked = _look(file, file.stat().st_mtime_ns, quality)
        told = [(f"{file}, row {number}", reason) for number, reason in looked.damaged]
        if told and damaged_policy == "stop":
            raise InputError(*told[0], "give a whole one, or leave it out by damaged_policy 'drop'")
        left_out.extend(f"{given}: {reason}" for given, reason in told)
        if looked.bad:
            left_out.append(f"{file}: {looked.bad} of {looked.rows} rows are not rated {quality} or more")
        pairs.extend(looked.pairs)
    if not pairs:
        reason = f"no example is left of it ({left_out[-1] if left_out else 'it has no rows'})"
        raise InputError(f"{files[0].parent}", reason, "lower quality, or give more")
    return pairs, left_out


@lru_cache(maxsize=_FILES_KEPT)
def _look(path, changed, quality) -> _Looked:
    """Look through a file, group by group: first what is small, then the pictures of those rows that are good."""
    looked, bad, rows = _Looked([], [], 0, 0), 0, 0
    opened(path, lambda file: _check_columns(path, file.schema_arrow))
    for group in tqdm(range(opened(path, lambda file: file.num_row_groups)), f"{path}", delay=5):
        about = opened(path, lambda file, group=group: file.read_row_group(group, _SMALL)).to_pylist()
        good = [row for row, each in enumerate(about) if _is_rated(each, quality)]
        for row in good:
            found = _Row(rows + row, group, row, about[row]["description"] or {})
            try:
                looked.pairs.extend(_examples(path, changed, found))
            except DamagedPictureError as error:
                looked.damaged.append((found.number, error.args[1]))
        bad, rows = bad + len(about) - len(good), rows + len(about)
    return looked._replace(bad=bad, rows=rows)


def _is_rated(about, quality):
    if quality == 0:
        return True
    if (about["description"] or {}).get("description_valid") is False:
        return False
    ratings = about["quality_assessment"] or {}
    return all((ratings.get(name) or 0) >= quality for name in _RATINGS)


def _examples(path, changed, row: _Row) -> Iterator[tuple[Scene, Panel]]:
    """The two of a row. Raises DamagedPictureError where a picture or its description is missing or damaged."""
    given = f"{path}, row {row.number}"
    missing = [name for name in _PROMPTS if not (row.description.get(name) or "").strip()]
    if missing:
        raise DamagedPictureError(given, f"its {missing[0]} is missing", "add it")
    lefts, top, side = _places(given, *size_of_whole(_bytes(path, changed, row.group, row.row), given))
    panels = [Panel(path, row.group, row.row, left, top, side) for left in lefts]
    item, category = (f"{row.description.get(field) or ''}".strip() for field in ("item", "category"))
    name = item or category or "subject"
    for prompt, place, target, seen in zip(_PROMPTS, ("left", "right"), panels, panels[::-1], strict=True):
        subject = Subject(name, category or name, Photos([seen]))
        id = f"{path.stem}/{row.number}/{place}"
        yield Scene(id, row.description[prompt].strip(), (subject,), "user"), target


def _places(given, height, width):
    """Where the two squares stand, in the middle of their halves: both lefts, top and side."""
    side = next((side for side in SIDES if side <= height), 0)
    top, gap = (height - side) // 2, width - 2 * side
    if not side or max(top, gap / 4) > MOST_PADDING or gap < 2 * top:
        rule = f"{height} × {width} pixels are no two squares of {' or '.join(map(str, SIDES[::-1]))} side by side"
        raise DamagedPictureError(given, rule, "give a whole one")
    return (top, width - top - side), top, side


def _bytes(path, changed, group, row):
    image = column_of(path, changed, group, "image.bytes")[row].as_py()
    if not image or not image["bytes"]:
        raise DamagedPictureError(f"{path}", "its picture is missing", "give a whole one")
    return image["bytes"]


@lru_cache(maxsize=_PICTURES_KEPT)
def _decoded(path, changed, group, row, given):
    return decode_photo(_bytes(path, changed, group, row), given)


def _check_columns(path, schema):
    for column, (fields, kinds) in _COLUMNS.items():
        kind = schema.field(column).type if column in schema.names else None
        there = {field.name: field.type for field in kind} if kind is not None and pa.types.is_struct(kind) else {}
        for name in fields:
            if name not in there or not any(is_one(there[name]) for is_one in kinds):
                rule = f"it has no {column}.{name}, as Subjects200K has"
                raise InputError(f"{path}", rule, f"its columns are {', '.join(_COLUMNS)}, structures all")
