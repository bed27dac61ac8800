"""What all commands share: flags whose errors are one line, and the exit codes."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from narrative_jax.core.errors import InputError, Stopped

DONE = 0
BAD_INPUT = 2
STOPPED = 75  # EX_TEMPFAIL: the same command goes on from what was saved


class Parser(argparse.ArgumentParser):
    """Flags of a command whose help is the module's docstring."""

    def error(self, message: str) -> NoReturn:
        """One line instead of the usage and a line."""
        self.exit(BAD_INPUT, f"{message}; see --help\n")


def exit_code(body: Callable[[], object], again: str = "run the same command again") -> int:
    """Run `body` and return the exit code; bad input and a stop are one line on stderr, a defect is raised.

    `again` says how to go on after a stop.
    """
    try:
        body()
    except (InputError, OSError) as error:
        print(*str(error).split(), file=sys.stderr)
        return BAD_INPUT
    except Stopped:
        print(f"stopped after saving; {again} to go on", file=sys.stderr)
        return STOPPED
    return DONE


def run(body: Callable[[argparse.Namespace], None], parser: Parser, arguments: Sequence[str] | None) -> int:
    """Parse the flags and run `body` on them; returns the exit code."""
    options = parser.parse_args(arguments)
    return exit_code(lambda: body(options))
