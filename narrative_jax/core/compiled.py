"""Programs that JAX has compiled, kept on the disk: they serve later entries of a run, and the run when it goes on."""

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from narrative_jax.core.files import check_writable

LEAST_SECONDS = 0.1  # that a program takes to be compiled: others are not kept
_ZSTD = b"\x28\xb5\x2f\xfd"  # begins what JAX packs where zstandard is installed


@contextmanager
def compiled_in(folder: Path, writes: bool) -> Iterator[None]:
    """What JAX compiles within is kept in a folder by the process that `writes`, and what is there is not compiled
    again; nothing is done where JAX keeps programs already (JAX_COMPILATION_CACHE_DIR). For one run of a process.

    JAX keeps no program that calls back to Python, as UPER's step does. Raises InputError for an unwritable folder.
    """
    if jax.config.jax_compilation_cache_dir:
        yield
        return
    if writes:
        check_writable(folder)
        _remove_broken(folder)
    kept = {"jax_compilation_cache_dir": f"{folder.absolute()}"}
    kept["jax_persistent_cache_min_compile_time_secs"] = LEAST_SECONDS
    before = {name: getattr(jax.config, name) for name in kept}
    _set(kept)
    try:
        yield
    finally:
        _set(before)


def _remove_broken(folder):
    """JAX writes not whole or not at all, and never again what is there: what a kill or a full disk left is removed.

    Of those that zstandard packed JAX says so itself, and compiles anew.
    """
    for path in filter(Path.is_file, folder.glob("*-cache")):
        data = path.read_bytes()
        if not data.startswith(_ZSTD):
            try:
                zlib.decompress(data)
            except zlib.error:
                path.unlink()


def _set(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    reset_cache()  # it knows its folder from its first use on
