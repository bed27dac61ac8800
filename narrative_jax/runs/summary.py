"""The numbers of a run: a manifest for each finished entry, and summary.json of all."""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral
from pathlib import Path
from typing import Any

from narrative_jax.core import processes
from narrative_jax.core.errors import InputError
from narrative_jax.core.files import write_json
from narrative_jax.runs.directory import (
    ELAPSED,
    INPUTS,
    MANIFEST,
    Context,
    read_if_there,
    read_manifest,
)

# Numbers of one meaning wherever they come from; all others stand in the summary under their entry's name.
SHARED_KEYS = ("gold/", "nibench/", "screen/", "compile/", "memory/", "time/")


@contextmanager
def at_work(context: Context, inputs: Mapping[str, Any] | None) -> Iterator[Callable[[Mapping[str, float]], float]]:
    """The context's entry while it runs on these inputs, which the first process knows and writes.

    Gives what finishes it: numbers -> the seconds it took in all.

    Its time adds up over runs that did not finish. TypeError or ValueError for numbers that a summary cannot hold.
    """
    folder, first = context.folder, processes.is_first()
    folder.mkdir(exist_ok=True)
    before, start = read_if_there(folder / ELAPSED) or 0.0, time.monotonic()
    if first:
        write_json(folder / INPUTS, inputs)

    def finish(numbers):
        numbers, seconds = _checked(context.name, numbers), before + time.monotonic() - start
        if first:
            manifest = {"stage": context.entry.stage, "seconds": seconds, "peak_bytes": _peak_bytes()}
            write_json(folder / MANIFEST, {**manifest, "summary": numbers})
            write_json(context.workdir / "summary.json", summary(context.config, context.workdir))
        return seconds

    try:
        yield finish
    except Exception:
        if first:
            with suppress(InputError):
                write_json(folder / ELAPSED, before + time.monotonic() - start)
        raise


def summary(config: Mapping[str, Any], workdir: str | Path) -> dict[str, float]:
    """The numbers of all finished entries: a shared key as it is while no earlier entry has it, else <entry>/<key>."""
    numbers: dict[str, float] = {}
    found = {name: read_manifest(Path(workdir) / name) for name in config["stages"]}
    finished = {name: manifest for name, manifest in found.items() if manifest}
    for name, manifest in finished.items():
        for key, value in manifest["summary"].items():
            shared = key.startswith(SHARED_KEYS) and key not in numbers
            numbers[key if shared else f"{name}/{key}"] = value
        numbers[f"time/{name}_seconds"] = manifest["seconds"]
    numbers["time/total_seconds"] = sum(manifest["seconds"] for manifest in finished.values())
    numbers["memory/peak_bytes"] = max((manifest["peak_bytes"] for manifest in finished.values()), default=0)
    return numbers


def _checked(name: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Numbers for a manifest; TypeError or ValueError where a stage returned anything else."""
    for key, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"stage {name} returned {key} = {value}: a summary holds finite numbers")
    return {key: int(value) if isinstance(value, Integral) else float(value) for key, value in values.items()}


def _peak_bytes() -> int:
    """The largest resident set so far of this process, or of one that it started and waited for."""
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(peaks) * (1 if sys.platform == "darwin" else 1024)
