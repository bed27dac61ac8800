"""What the commands of this folder share: a folder to write in, and how a page says where it comes from."""

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from narrative_jax.core.errors import InputError


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
