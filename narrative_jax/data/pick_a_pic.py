"""Pick-a-Pic (Kirstain et al. 2023): two pictures of a prompt and which one its writer preferred, in Parquet files.

A row has caption, jpg_0 and jpg_1, label_0 and label_1 (1 for the better one, 0.5 each for a tie), and maybe has_label.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from narrative_jax.core.errors import InputError
from narrative_jax.data.parquet import column_of, opened
from narrative_jax.data.photos import DamagedPictureError, decode_photo, size_of_whole
from narrative_jax.data.ranked import FILES_KEPT, Looked, Ranked, checked

_CELLS = ("jpg_0", "jpg_1")
_LABELS = ("label_0", "label_1")
_COLUMNS = {  # of which types each may be
    "caption": (pa.types.is_string, pa.types.is_large_string),
    **dict.fromkeys(_LABELS, (pa.types.is_floating, pa.types.is_integer)),
    **dict.fromkeys(_CELLS, (pa.types.is_binary, pa.types.is_large_binary)),
}


@dataclass(frozen=True)
class Cell:
    """A picture in a row of a group of a Parquet file, read when it is asked for; `size` is its height and width."""

    file: Path
    group: int
    row: int
    column: str
    size: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.file}, {self.column} in row {self.row} of group {self.group}"

    def read(self) -> np.ndarray:
        """u8[h, w, 3]. Raises InputError."""
        return decode_photo(self.bytes(), f"{self}")

    def bytes(self) -> bytes:
        """As they are stored."""
        return column_of(self.file, self.stat().st_mtime_ns, self.group, self.column)[self.row].as_py()

    def stat(self) -> os.stat_result:
        """Of the file."""
        return self.file.stat()


@lru_cache(maxsize=FILES_KEPT)
def look_at_rows(path: Path, changed: int, name: str) -> Looked:
    """What a file holds, read group by group: first what is small, then the pictures of those rows that were judged.

    `changed` is the file's time, scenes are called by `name`. Raises InputError for another one.
    """
    schema = opened(path, lambda file: file.schema_arrow)
    for column, kinds in _COLUMNS.items():
        if column not in schema.names or not any(is_one(schema.field(column).type) for is_one in kinds):
            rule = f"it has no column {column} of its type, as Pick-a-Pic has"
            raise InputError(f"{path}", rule, f"its columns are {', '.join(_COLUMNS)}")
    looked, unjudged, before = Looked([], [], 0), 0, 0
    about = ["caption", *_LABELS, *(["has_label"] if "has_label" in schema.names else [])]
    for group in tqdm(range(opened(path, lambda file: file.num_row_groups)), f"{path}", delay=5):
        rows = opened(path, lambda file, group=group: file.read_row_group(group, about)).to_pylist()
        for row, each in enumerate(rows):
            labels = [math.nan if each[label] is None else float(each[label]) for label in _LABELS]
            if each.get("has_label") is False or any(map(math.isnan, labels)):
                unjudged += 1
                continue
            given, id = f"{path}, row {before + row}", f"{name}/{before + row}"
            try:
                cells = list(_cells(path, changed, group, row))
                ranks = [-label for label in labels]
                looked.ranked.append(checked(Ranked(id, (each["caption"] or "").strip(), cells, ranks), Cell.bytes))
            except InputError as error:
                looked.damaged.append((given, f"{error.args[0]}: {error.args[1]}"))
        before += len(rows)
    return looked._replace(unjudged=unjudged)


def _cells(path, changed, group, row) -> Iterator[Cell]:
    """A row's pictures, whole ones. Raises DamagedPictureError."""
    for name in _CELLS:
        data = column_of(path, changed, group, name)[row].as_py()
        if not data:
            raise DamagedPictureError(name, "it is missing", "give a whole one")
        yield Cell(path, group, row, name, size_of_whole(data, name))
