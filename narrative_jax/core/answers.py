"""What models behind servers answered, which is paid for: what is kept is not asked again."""

from pathlib import Path
from threading import Lock
from typing import Any

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import read_json, write_json
from narrative_jax.core.hashing import digest


class Answers:
    """A folder with a JSON file for each answer, by its question."""

    def __init__(self, folder: Path):
        self._folder, self._writing = folder, Lock()

    def find(self, question: Any) -> Any | None:
        """The answer to a question of plain values, None where none is kept. Raises InputError for a damaged file."""
        path = self._path(question)
        return read_json(path) if path.exists() else None

    def keep(self, question: Any, answer: Any) -> None:
        """Leave an answer on the disk, whole or not at all. Raises InputError where it cannot be written."""
        path = self._path(question)
        with self._writing:  # several threads may have asked the same
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                write_json(path, answer)
            except InputError:
                if not path.exists():  # another process may have just written it
                    raise

    def _path(self, question):
        return self._folder / f"{digest(question)}.json"
