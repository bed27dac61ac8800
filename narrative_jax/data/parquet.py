"""Parquet files with pictures in them."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from narrative_jax.core.errors import InputError

_GROUPS_KEPT = 2  # columns of groups in memory: rows are read in order


def opened(path: Path, read: Callable[[pq.ParquetFile], Any]) -> Any:
    """What `read` gives of a file. Raises InputError where it cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            return read(file)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        told = str(error).split("\n")[0][:120]
        raise InputError(f"{path}", f"it is no readable Parquet file ({told})", "give a whole one") from error


@lru_cache(maxsize=_GROUPS_KEPT)
def column_of(path: Path, changed: int, group: int, column: str) -> pa.ChunkedArray:
    """A column of a group, or a field of it (image.bytes) in its structures; the last ones are kept while `changed`,
    the file's time, is the same. Raises InputError.
    """
    return opened(path, lambda file: file.read_row_group(group, [column]))[column.partition(".")[0]]
