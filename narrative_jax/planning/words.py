"""A plan as a person reads it."""

from collections.abc import Mapping, Sequence

from narrative_jax.core.markdown import table
from narrative_jax.planning.collectives import BETWEEN_SLICES
from narrative_jax.planning.report import Report
from narrative_jax.planning.topologies import GB, GIB, TERA, Chip


def assumptions(kind: str, chip: Chip) -> str:
    """What of a chip the times come from, a line."""
    return (
        f"assumed of a {kind} chip: {chip.flops / TERA:g} TFLOP/s in bfloat16, memory {chip.memory_bandwidth / GB:g} "
        f"GB/s, links {chip.link_bandwidth / GB:g} GB/s in all, network {chip.network_bandwidth / GB:g} GB/s, "
        f"{chip.hbm_bytes / GIB:.2f} GiB"
    )


def figures(report: Report, records: int | None) -> dict[str, str]:
    """What the table says of a program, by row; `records` is a number of them whose time is asked for."""
    rows = {
        "records a run": f"{report.rows} {report.unit}" + f" in {report.accumulate} parts" * (report.accumulate > 1),
        "chips": f"{report.chips}",
        "memory a chip": f"{report.hbm_bytes_per_chip / GIB:.2f} of {report.hbm_capacity_bytes / GIB:.2f} GiB "
        f"({report.hbm_bytes_per_chip / report.hbm_capacity_bytes:.0%})",
        "of it arguments": f"{report.argument_bytes_per_chip / GIB:.2f} GiB",
        "useful FLOPs a chip": f"{report.flops_per_chip / TERA:.1f} T",
        "executed, with recomputation": f"{report.executed_flops_per_chip / TERA:.1f} T",
        "compute": seconds(report.compute_seconds),
    }
    if report.roofline_seconds:
        moved = report.collective_bytes_per_chip
        linked = sum(size for kind, size in moved.items() if kind != BETWEEN_SLICES)
        rows |= {
            "memory traffic": f"{seconds(report.hbm_seconds)} ({report.hbm_traffic_bytes_per_chip / GB:.1f} GB)",
            "links": f"{seconds(report.collective_seconds)} ({linked / GB:.2f} GB of results)",
            **{f"  {kind}": f"{size / GB:.3f} GB" for kind, size in moved.items()},
            "  outside of loops": f"{report.collectives_outside_loops_bytes_per_chip / GB:.3f} GB",
            **({"between slices": seconds(report.network_seconds)} if report.network_seconds else {}),
            "roofline": f"{seconds(report.roofline_seconds)}, bound by {report.binding}",
            f"{report.unit} a second": f"{report.per_second:.2f}",
        }
        if records:
            rows[f"{records:,} {report.unit}"] = f"{report.days(records):.2f} days"
    return rows | {"compiled in": seconds(report.compile_seconds)}


def columns(named: Mapping[str, Mapping[str, str]]) -> str:
    """A table in Markdown with a column for each name; what one has and another lacks is a dash there."""
    rows = list(dict.fromkeys(row for figures in named.values() for row in figures))
    return table(["", *named], [[row, *(each.get(row, "-") for each in named.values())] for row in rows])


def misfit(report: Report, remedies: Sequence[str]) -> str:
    """By how much a program does not fit, and what would make it fit; a line."""
    over = (report.hbm_bytes_per_chip - report.hbm_capacity_bytes) / GIB
    return f"{report.program} does not fit: {over:.2f} GiB a chip too much. It would with {'; or '.join(remedies)}."


def seconds(value: float) -> str:
    """A time with its unit."""
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"
