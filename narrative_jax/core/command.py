"""What all commands share: flags whose errors are one line, and the exit codes."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from narrative_jax.core.errors import InputError, Stopped, Unread, check_name
from narrative_jax.core.terminal import shown

DONE = 0
BAD_INPUT = 2
STOPPED = 75  # EX_TEMPFAIL: the same command goes on from what was saved
UNREAD = 141  # 128 + SIGPIPE, as shells show it


class Parser(argparse.ArgumentParser):
    """Flags of a command whose help is the module's docstring. Raises InputError for bad ones."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace=None):
        """As argparse does; arguments are UTF-8, and ~/ is the home after an = as well."""
        return super().parse_known_args(map(_read, sys.argv[1:] if args is None else args), namespace)

    def error(self, message: str) -> NoReturn:
        """One line instead of the usage and a line."""
        given, _, rule = message.partition(": ")
        raise InputError(given, rule, "see --help")


def parse_changes(
    parser: Parser, arguments: Sequence[str] | None, known: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the changes to a config beside them, "--config.KEY=VALUE" each. Raises InputError for others.

    `known` are the flags of the parser.
    """
    options, rest = parser.parse_known_args(arguments)
    changes = [argument for argument in rest if argument.startswith("--config.")]
    for argument in rest:
        if argument not in changes:
            check_name("flag", argument.partition("=")[0], [*known, "--config.KEY"])
    return options, changes


def exit_code(body: Callable[[], object], again: str = "run the same command again") -> int:
    """Run `body` and return the exit code; bad input and a stop are one line on stderr, a defect is raised.

    `again` says how to go on after a stop.
    """
    try:
        with shown():
            code = _outcome(body, again)
            sys.stdout.flush()
    except Unread:
        return UNREAD
    return code


def run(body: Callable[[argparse.Namespace], None], parser: Parser, arguments: Sequence[str] | None) -> int:
    """Parse the flags and run `body` on them; returns the exit code."""
    return exit_code(lambda: body(parser.parse_args(arguments)))


def _outcome(body, again):
    try:
        body()
    except SystemExit as end:  # of --help
        return end.code
    except (InputError, OSError) as error:
        line = " ".join(str(error).split())
        sys.stderr.write(f"{line}\n")  # in one piece: libraries' threads write there too
        return BAD_INPUT
    except Stopped:
        print(f"stopped after saving; {again} to go on", file=sys.stderr)
        return STOPPED
    return DONE


def _read(argument):
    """An argument as it is meant. Raises InputError for bytes that are no UTF-8, which Python keeps as surrogates."""
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"argument {argument!r}", "arguments are UTF-8", "write it in UTF-8") from error
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{flag}{equals}{os.path.expanduser(value)}"
