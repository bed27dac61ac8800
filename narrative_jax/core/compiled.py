"""Programs that JAX has compiled, kept on the disk: they serve later entries of a run, and the run when it goes on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from narrative_jax.core.errors import Stopped
from narrative_jax.core.files import write_bytes

LEAST_SECONDS = 0.1  # that a program takes to be compiled: others are not kept
_OPEN = "open"  # a file that is there while a process writes programs


@contextmanager
def compiled_in(folder: Path, writes: bool) -> Iterator[None]:
    """What JAX compiles within is kept in a folder by the process that `writes`, and what is there is not compiled
    again; nothing is done where JAX keeps programs already (JAX_COMPILATION_CACHE_DIR).

    JAX keeps no program that calls back to Python, as UPER's step does. Raises InputError for a full disk.
    """
    if jax.config.jax_compilation_cache_dir:
        yield
        return
    mark = folder / _OPEN
    if writes:
        _remove_half_written(folder, mark)
        write_bytes(mark, b"")
    kept = {"jax_compilation_cache_dir": f"{folder.absolute()}"}
    kept["jax_persistent_cache_min_compile_time_secs"] = LEAST_SECONDS
    before = {name: getattr(jax.config, name) for name in kept}
    _set(kept)
    whole = False
    try:
        yield
        whole = True
    except Stopped:
        whole = True
        raise
    finally:
        _set(before)
        if writes and whole:
            mark.unlink(missing_ok=True)


def _remove_half_written(folder, mark):
    """JAX does not write whole or not at all, and never again what is there: a killed process' last program goes."""
    folder.mkdir(parents=True, exist_ok=True)
    programs = [path for path in folder.iterdir() if path != mark]
    if mark.exists() and programs:
        max(programs, key=lambda path: path.stat().st_mtime_ns).unlink()


def _set(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    reset_cache()  # it knows its folder from its first use on
