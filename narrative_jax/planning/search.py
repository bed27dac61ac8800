"""Which meshes, microbatches and policies of what blocks keep fit, and which would be fastest.

All are ranked by an estimate from the trace: what a step holds (arguments by their shardings, what is alive between
its operations), what it computes, and the weights that its loops gather. The first of them are then compiled.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from jax.sharding import AbstractMesh

from narrative_jax.core.errors import InputError
from narrative_jax.core.markdown import table
from narrative_jax.core.mesh import AXES, check_divided, make_mesh, slices_of
from narrative_jax.models.stacks import KEPT
from narrative_jax.planning.alive import held
from narrative_jax.planning.flops import flops, live
from narrative_jax.planning.programs import train_program
from narrative_jax.planning.report import Report, compiled
from narrative_jax.planning.topologies import GIB, Chip
from narrative_jax.planning.words import seconds
from narrative_jax.runs.directory import Context
from narrative_jax.runs.generator import preset_of

MOST_COMPILED = 4
SECONDS = 1200.0  # after which no further compilation begins, less what the last one took
SHOWN = 16  # lines of the table


@dataclass(frozen=True)
class Candidate:
    """One way to run the step, and what it is estimated to take: bytes and seconds a chip."""

    data: int
    fsdp: int
    tensor: int
    accumulate: int
    kept: str
    argument_bytes: int
    temporary_bytes: float
    compute_seconds: float
    collective_seconds: float

    @property
    def bytes(self) -> float:
        """All that it holds at most."""
        return self.argument_bytes + self.temporary_bytes

    @property
    def seconds(self) -> float:
        """A bound from below: it computes or sends, whichever takes longer."""
        return max(self.compute_seconds, self.collective_seconds)


def search(context: Context, devices: Sequence[Any], chip: Chip, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rank what fits of the context's entry, compile the best, and say so; returns the numbers of those compiled.

    Raises InputError where nothing fits.
    """
    start, last, done = time.monotonic(), 0.0, {}
    found = candidates(context, devices, chip)
    fitting = ranked(found, chip)
    if not fitting:
        least = min(found, key=lambda each: each.bytes)
        given = f"{context.name} on {len(devices)} chips, at least {least.bytes / GIB:.1f} GiB a chip"
        raise InputError(given, f"a chip has {chip.hbm_bytes / GIB:.2f} GiB", "take more chips, or a smaller batch")
    while len(done) < MOST_COMPILED and time.monotonic() - start + last < SECONDS:
        # What was compiled says how far the estimate is off, for those that are not.
        scale = [_temporary(report) / each.temporary_bytes for each, report in done.items()]
        usual = sorted(scale)[len(scale) // 2] if scale else 1.0
        scaled = {replace(each, temporary_bytes=each.temporary_bytes * usual): each for each in found}
        ahead = [scaled[each] for each in ranked(scaled, chip) if scaled[each] not in done]
        if not ahead:
            break
        mesh = make_mesh(_sizes(context, ahead[0]), devices)
        program = train_program(context, mesh, ahead[0].kept, ahead[0].accumulate)
        report = compiled(program, len(devices), chip)
        done[ahead[0]], last = report, report.compile_seconds
        say(f"compiled {_told(ahead[0])} in {last:.0f} s: {report.hbm_bytes_per_chip / GIB:.2f} GiB")
    best = sorted(done, key=lambda each: (not done[each].fits, done[each].roofline_seconds or math.inf))
    say(_table([*best, *(each for each in fitting if each not in done)][:SHOWN], done))
    return [asdict(each) | {"compiled": asdict(done[each])} for each in best]


def candidates(context: Context, devices: Sequence[Any], chip: Chip) -> list[Candidate]:
    """All that the mesh, the network and the batch allow, with their estimates; one trace for each policy."""
    found, preset = [], preset_of(context)
    slices = slices_of(devices)
    layouts = list(_layouts(context, len(devices), slices, preset))
    if not layouts:
        given = f"{context.name}.batch_size {context.entry.batch_size} on {len(devices)} chips"
        raise InputError(given, "no mesh divides both the network and the batch", "set a batch of a multiple of chips")
    for kept in KEPT:
        program = train_program(context, make_mesh(layouts[0][0], devices), kept, 1)
        jaxpr = live(program.trace().jaxpr)
        computing = flops(jaxpr).per_chip(len(devices)) / chip.flops
        whole = held(jaxpr, [True] * program.weights + [False] * (len(jaxpr.invars) - program.weights))
        for sizes, arguments, trained in layouts:
            for accumulate in _divisors(program.rows // (sizes["data"] * sizes["fsdp"])):
                temporary, within, sums = _estimated(sizes, accumulate, whole, trained)
                sending = within / chip.link_bandwidth
                sending += sums / (chip.network_bandwidth if slices > 1 else chip.link_bandwidth)
                main = (sizes["data"], sizes["fsdp"], sizes["tensor"], accumulate, kept)
                found.append(Candidate(*main, arguments, temporary, computing, sending))
    return found


def ranked(found: Iterable[Candidate], chip: Chip) -> list[Candidate]:
    """Those that fit, the fastest first, then which sends less; for each mesh and policy the best of its microbatches,
    the larger one where two are as good.
    """
    fitting = [each for each in found if each.bytes <= chip.hbm_bytes]
    best = {}
    for each in sorted(fitting, key=lambda each: (each.seconds, each.collective_seconds, each.accumulate)):
        best.setdefault((each.data, each.fsdp, each.tensor, each.kept), each)
    return list(best.values())


def _layouts(context, chips, slices, preset):
    """Sizes of meshes that divide the network and the batch, bytes of arguments on a chip, and of trained weights.

    Data goes over so many `slices`. Where the step of each is refused, raises the last one's InputError: it may not be
    the mesh's fault.
    """
    found, refused = 0, None
    context_axis = _context_axis(context)
    rest, batch = chips // context_axis, context.entry.batch_size
    for tensor in _divisors(rest):
        for fsdp in _divisors(rest // tensor):
            sizes = {"data": rest // tensor // fsdp, "fsdp": fsdp, "tensor": tensor, "context": context_axis}
            if sizes["data"] % slices or batch % (sizes["data"] * fsdp):
                continue
            try:
                check_divided(preset.divided, sizes)
            except InputError:
                continue
            try:  # parts of an algorithm, too, may not divide it
                program = train_program(context, AbstractMesh(tuple(sizes.values()), AXES), accumulate=1)
            except InputError as error:
                refused = error
                continue
            found += 1
            yield sizes, program.argument_bytes(), program.trained_bytes
    if refused and not found:
        raise refused


def _estimated(sizes, accumulate, whole, trained):
    """Bytes of a chip beside its arguments, and bytes that it sends within a slice and over data: an estimate.

    Weights are gathered over fsdp in each round of each part; gradients add up over data; tensor adds up what two
    layers of a block give.
    """
    rows = sizes["data"] * sizes["fsdp"]
    share = {axis: (size - 1) / size for axis, size in sizes.items()}
    gathers = whole.gathered * accumulate / sizes["tensor"] * share["fsdp"]
    sums = 2 * share["data"] * trained / sizes["fsdp"]
    between = 2 * share["tensor"] * 2 * whole.carried / rows
    return whole.peak / (rows * accumulate), gathers + between, sums


def _divisors(number):
    return [each for each in range(1, number + 1) if number % each == 0]


def _sizes(context, candidate):
    axes = {axis: getattr(candidate, axis) for axis in ("data", "fsdp", "tensor")}
    return axes | {"context": _context_axis(context)}


def _context_axis(context):
    """The mesh's, which is not searched. Raises InputError for what is left over."""
    size = context.config.mesh.get("context", 1)
    if size < 1:
        rule = "the search is for the other axes, and takes this one as it is"
        raise InputError(f"mesh.context {size}", rule, "set it, e.g. to 1")
    return size


def _temporary(report: Report) -> int:
    return report.hbm_bytes_per_chip - report.argument_bytes_per_chip


def _told(each: Candidate) -> str:
    mesh = f"data {each.data} × fsdp {each.fsdp} × tensor {each.tensor}"
    return f"{mesh}, accumulate {each.accumulate}, kept {each.kept}"


def _table(rows, done):
    header = ["", "estimated GiB", "compute", "links", "compiled GiB", "fits", "roofline", "bound by"]

    def cells(each):
        report = done.get(each)
        estimate = [f"{each.bytes / GIB:.2f}", seconds(each.compute_seconds), seconds(each.collective_seconds)]
        if report is None:
            return [_told(each), *estimate, "-", "-", "-", "-"]
        found = [f"{report.hbm_bytes_per_chip / GIB:.2f}", "yes" if report.fits else "no"]
        times = [seconds(report.roofline_seconds), report.binding] if report.binding else ["-", "-"]
        return [_told(each), *estimate, *found, *times]

    return table(header, [cells(each) for each in rows])
