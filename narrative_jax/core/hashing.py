"""Content hashes of files and folders; a file that was not touched is not read again."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from narrative_jax.core.files import write_json

BESIDE = ("tokenizer.json", "scalar.json", "nireward.json")  # belong to the weights that they lie beside
LISTED_IN = ("", "train", "test")  # folders of what a list in JSON names, from its own
_SETTLED = 2_000_000_000  # nanoseconds after which a file's time tells that it has not changed since
_BLOCK = 1 << 22


class Hashes:
    """Hashes of contents; those of files are remembered in `memory`, a JSON file, by path, size and time."""

    def __init__(self, memory: Path):
        self._memory = memory
        try:
            self._known = json.loads(memory.read_bytes())
        except (OSError, ValueError):
            self._known = {}
        self._fresh = False

    def of(self, path: str | Path) -> str:
        """The hash of a file with those that belong to it, or of all files of a folder; of what is not there, of "".

        To a JSONL file belong the files that its lines name, to an index of weights its shards, to weights the
        tokenizer.json beside them. Of a folder, hidden files and cards (Markdown) do not count.
        """
        folder = Path(path).parent
        return digest({os.path.relpath(file, folder): self._file(file) for file in _belonging(Path(path))})

    def save(self) -> None:
        """Remember what was found. Raises InputError where the disk refuses."""
        if self._fresh:
            write_json(self._memory, self._known)

    def _file(self, path):
        about, key = path.stat(), str(path.absolute())
        stamp = [about.st_size, about.st_mtime_ns]
        known = self._known.get(key)
        if known and known[:2] == stamp:
            return known[2]
        found = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
        # A file written this moment may change within its time's grain.
        if time.time_ns() - about.st_mtime_ns > _SETTLED:
            self._known[key], self._fresh = [*stamp, found.hexdigest()], True
        return found.hexdigest()


def digest(value: Any) -> str:
    """The hash of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _belonging(path) -> Iterator[Path]:
    """The files that a path stands for, each once."""
    if path.is_dir():
        yield from sorted(
            file
            for file in path.rglob("*")
            if file.is_file()
            and file.suffix != ".md"
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
    elif path.is_file():
        found = [path, *_named_in(path), *(path.with_name(name) for name in BESIDE)]
        yield from sorted({file for file in found if file.is_file()})


def _named_in(path):
    """Files that a JSONL file's lines name, beside it, and those of a list or an index of weights in JSON."""
    if path.suffix not in (".jsonl", ".json"):
        return
    folders = [path.parent / each for each in (LISTED_IN if path.suffix == ".json" else LISTED_IN[:1])]
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    for line in text.split("\n") if path.suffix == ".jsonl" else [text]:
        try:
            named = list(_texts(json.loads(line)))
            yield from (folder / name for folder in folders for name in named if _is_file(folder, name))
        except ValueError:
            continue  # whoever reads the file says what is wrong with it


def _texts(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _is_file(folder, name):
    try:
        return bool(name) and (folder / name).is_file()
    except (OSError, ValueError):  # a prompt is no path
        return False
