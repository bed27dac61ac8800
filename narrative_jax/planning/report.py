"""The numbers of a compiled program, and what they say of its time."""

import re
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from narrative_jax.planning.collectives import BETWEEN_SLICES, by_kind, collectives
from narrative_jax.planning.flops import flops, live
from narrative_jax.planning.hlo import Program as Text
from narrative_jax.planning.programs import Program
from narrative_jax.planning.topologies import GIB, Chip
from narrative_jax.planning.traffic import memory_bytes

_REFUSED = re.compile(r"(?:\(|Used )([\d.]+)([KMGT])\)? (?:exceeds available HBM|of [\d.]+[KMGT] hbm)")
_PREFIXES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Report:
    """Numbers of one program; bytes, FLOPs and seconds are of a chip and a run of it.

    `flops_per_chip` are useful ones, `executed_flops_per_chip` with what is worked out again, which takes time too.
    The four times assume that the chip does nothing else, and overlap perfectly: `roofline_seconds` is the longest of
    them, a bound from below. Where a program does not fit, what only its text tells is missing.
    """

    program: str
    unit: str
    rows: int
    runs: int
    accumulate: int
    chips: int
    fits: bool
    hbm_bytes_per_chip: int
    hbm_capacity_bytes: int
    argument_bytes_per_chip: int
    flops_per_chip: float
    executed_flops_per_chip: float
    compute_seconds: float
    compile_seconds: float
    hbm_traffic_bytes_per_chip: int | None = None
    collective_bytes_per_chip: dict[str, int] | None = None
    collective_wire_bytes_per_chip: dict[str, int] | None = None
    collectives_outside_loops_bytes_per_chip: int | None = None
    hbm_seconds: float | None = None
    collective_seconds: float | None = None
    network_seconds: float | None = None
    roofline_seconds: float | None = None
    binding: str | None = None

    @property
    def per_second(self) -> float | None:
        """Records a second, all chips together."""
        return self.rows / self.roofline_seconds if self.roofline_seconds else None

    def days(self, records: int) -> float | None:
        """How long so many records take."""
        return records / self.per_second / DAY if self.per_second else None


def compiled(program: Program, chips: int, chip: Chip) -> Report:
    """Compile a program for so many chips and read its numbers; one that does not fit gives a report that says so."""
    traced = program.trace()
    executed = flops(live(traced.jaxpr))
    useful = program.useful() if program.useful else executed
    known = {
        "program": program.name,
        "unit": program.unit,
        "rows": program.rows,
        "runs": program.runs,
        "accumulate": program.accumulate,
        "chips": chips,
        "hbm_capacity_bytes": chip.hbm_bytes,
        "argument_bytes_per_chip": program.argument_bytes(),
        "flops_per_chip": useful.per_chip(chips),
        "executed_flops_per_chip": executed.per_chip(chips),
        "compute_seconds": executed.per_chip(chips) / chip.flops,
    }
    start = time.monotonic()
    try:
        with _uncached():
            done = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise
        return Report(**known, fits=False, hbm_bytes_per_chip=needed, compile_seconds=time.monotonic() - start)
    seconds, needed = time.monotonic() - start, _memory(done.memory_analysis())
    text = Text(done.as_text())
    moved, traffic = collectives(text, chips), memory_bytes(text)
    wire = by_kind(moved, "wire")
    taken = times(known["compute_seconds"], traffic, wire, chip)
    return Report(
        **known,
        fits=needed <= chip.hbm_bytes,
        hbm_bytes_per_chip=needed,
        compile_seconds=seconds,
        hbm_traffic_bytes_per_chip=traffic,
        collective_bytes_per_chip=by_kind(moved),
        collective_wire_bytes_per_chip=wire,
        collectives_outside_loops_bytes_per_chip=sum(each.total for each in moved if not each.in_loop),
        hbm_seconds=taken["memory"],
        collective_seconds=taken["links"],
        network_seconds=taken["network"],
        **roofline(taken),
    )


def times(compute: float, traffic: float, wire: Mapping[str, float], chip: Chip) -> dict[str, float]:
    """Seconds of what a chip does: it computes, reads and writes `traffic` bytes, sends `wire` bytes by kind."""
    linked = sum(size for kind, size in wire.items() if kind != BETWEEN_SLICES)
    return {
        "compute": compute,
        "memory": traffic / chip.memory_bandwidth,
        "links": linked / chip.link_bandwidth,
        "network": wire.get(BETWEEN_SLICES, 0) / chip.network_bandwidth,
    }


def roofline(times: dict[str, float]) -> dict[str, Any]:
    """The longest of the times, and which it is."""
    binding = max(times, key=times.get)
    return {"roofline_seconds": times[binding], "binding": binding}


def needed_bytes(message: str) -> int | None:
    """What a program needs on a chip, from the compiler's refusal; None of another error."""
    found = _REFUSED.search(message) if "RESOURCE_EXHAUSTED" in message or "HbmOom" in message else None
    return round(float(found[1]) * _PREFIXES[found[2]]) if found else None


def remedies(report: Report, parts: int, kept: str) -> list[str]:
    """What would make a program fit that does not, spread over so many `parts` of the batch.

    `kept` is what its blocks keep for the gradient, "" where there is none.
    """
    found, free = [], report.hbm_capacity_bytes - report.argument_bytes_per_chip
    temporary = report.hbm_bytes_per_chip - report.argument_bytes_per_chip
    each = report.rows // (parts * report.accumulate)
    if free <= 0:
        found.append(f"a larger fsdp: arguments alone take {report.argument_bytes_per_chip / GIB:.1f} GiB")
    elif each > 1:
        most = max(1, int(each * free / temporary))
        found.append(f"about {most} {report.unit} a chip at once instead of {each}, by a smaller batch or accumulate")
    if kept and kept != "nothing":
        found.append("kept=nothing: what blocks keep is worked out again")
    if free > 0 and each <= 1:
        found.append("a larger fsdp, or chips with more memory")
    return found


@contextmanager
def _uncached():
    """What is compiled for chips that are not here cannot be read back from JAX's cache."""
    usual = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()  # or what was asked for before the first compilation would stay
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", usual)
        reset_cache()


def _memory(analysis):
    out = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return analysis.argument_size_in_bytes + out + analysis.temp_size_in_bytes + analysis.generated_code_size_in_bytes
