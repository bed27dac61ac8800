"""What the commands of this folder share: flags, and one clear line with exit code 2 for bad input."""

import argparse
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
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
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def check_folder(folder: Path) -> None:
    """Raise InputError unless `folder` exists, before hours are spent on what goes into it."""
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"folder {folder}", "it must exist and be writable", f"mkdir -p {folder}")


def provenance(command: str, seconds: float, packages: Sequence[str] = ("numpy", "scipy")) -> str:
    """How a page came about: command, versions, machine and wall time."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else []
    threads = os.environ.get("OMP_NUM_THREADS")
    run_as = f"OMP_NUM_THREADS={threads} python" if threads else "python"
    return (
        f"`{run_as} -m {command}`; Python {platform.python_version()}, {versions}; "
        f"{os.cpu_count()} cores {[*names, platform.machine()][0]}; {seconds:.0f} s.\n"
    )
