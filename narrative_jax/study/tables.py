"""What a finished run found, as tables in Markdown: for a page that tells of it.

python -m narrative_jax.study.tables --run=runs/adpo-controls
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from narrative_jax.core.command import Parser, run
from narrative_jax.core.errors import InputError
from narrative_jax.core.markdown import table
from narrative_jax.report.run import Run
from narrative_jax.report.tables import printed
from narrative_jax.runs.directory import CONFIG


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables that the run printed at its end; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run's directory")
    return run(_print, parser, arguments)


def _print(options):
    if not (options.run / CONFIG).is_file():
        raise InputError(f"run {options.run}", "it is the directory of a run", "name one with a config.json")
    found = printed(Run(options.run))
    if not found:
        raise InputError(f"run {options.run}", "nothing was evaluated in it", "let it run to its end")
    print("\n\n".join(f"{table(each.header, each.rows)}\n\n{each.caption}" for each in found))


if __name__ == "__main__":
    sys.exit(main())
