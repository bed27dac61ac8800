"""Files that are there whole or not at all: written under another name first, then renamed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from narrative_jax.core.errors import InputError


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file in one step: a reader, or a later run, finds the old content or the new, never a part.

    Raises InputError where it cannot be written (no permission, a full disk); the old content then stays.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise _unwritable(path, error) from error


def write_json(path: str | Path, value: Any) -> None:
    """`write_bytes` of a value as indented JSON; scalars of numpy and JAX become numbers.

    Raises InputError as that does, ValueError for NaN or infinity.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=lambda scalar: scalar.item())
    write_bytes(path, (text + "\n").encode())


def read_json(path: str | Path) -> Any:
    """What a file of `write_json` holds. Raises InputError where it is missing or damaged."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}", "there is no such file", "run again the entry that writes it") from None
    except ValueError as error:
        raise InputError(f"{path}", f"it is not the JSON that a run writes ({error})", "remove it") from error


def check_writable(folder: str | Path) -> Path:
    """Create a folder and write in it once, so that a long run does not fail at its end. Raises InputError."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    probe = folder / ".probe"
    write_bytes(probe, b"")
    probe.unlink()
    return folder


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder to fill, which takes the place of `folder` once the block ends without an error.

    Raises InputError where it cannot be written.
    """
    folder = Path(folder)
    temporary = _beside(folder)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path):
    """A hidden name on the same file system; always the same one, so that a killed run leaves no heap of them."""
    return path.with_name(f".{path.name}.part")


def _unwritable(path, error):
    reason = error.strerror or str(error)
    return InputError(f"{path}", f"it cannot be written ({reason})", "free the disk, or choose another place")
