"""Tables in Markdown."""

from collections.abc import Iterable, Sequence

import numpy as np


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table, its columns as wide as they need; floats to three digits, whatever else as it prints."""
    told = [[f"{cell:.3f}" if isinstance(cell, float | np.floating) else str(cell) for cell in row] for row in rows]
    told = [[str(name) for name in header], ["---"] * len(header), *told]
    widths = [max(len(row[place]) for row in told) for place in range(len(header))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in told]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
