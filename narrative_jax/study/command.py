"""What the commands of this folder share: flags, and one clear line with exit code 2 for bad input."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from narrative_jax.core.errors import InputError


class Parser(argparse.ArgumentParser):
    """Flags of a command whose help is the module's docstring."""

    def error(self, message: str) -> NoReturn:
        """One line instead of the usage and a line."""
        self.exit(2, f"{message}; see --help\n")


def run(body: Callable[[argparse.Namespace], None], parser: Parser, arguments: Sequence[str] | None) -> int:
    """Parse the flags and run `body` on them; returns the exit code."""
    options = parser.parse_args(arguments)
    try:
        body(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
