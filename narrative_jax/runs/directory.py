"""A run directory: its config, a folder for each entry, and a manifest in those that are finished."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict, FrozenConfigDict

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import check_writable, read_json
from narrative_jax.core.stop import StopFlag
from narrative_jax.rewards.base import WEIGHTS
from narrative_jax.runs.tables import Tables

CONFIG = "config.json"
HASHES = ".hashes.json"  # of files that were read, so that they need not be read again
MANIFEST = "manifest.json"  # of an entry, written last: the entry is finished
INPUTS = "inputs.json"  # of an entry: what it is made from, written when it begins
ELAPSED = "elapsed.json"  # of an entry: seconds of the runs that did not finish
ADAPTER = "adapter.safetensors"  # what a train entry leaves, this or `WEIGHTS`


@dataclass(frozen=True)
class Context:
    """Where and with what an entry of the config runs.

    `config` is the whole config, `entry` the part of it called `name`; the stage writes under `folder` only.
    """

    config: FrozenConfigDict
    name: str
    workdir: Path
    stop: StopFlag = field(default_factory=StopFlag)
    tables: Tables = field(default_factory=Tables)

    @property
    def entry(self) -> FrozenConfigDict:
        """The entry's own part of the config."""
        return self.config[self.name]

    @property
    def folder(self) -> Path:
        """The entry's own folder, which exists."""
        return self.workdir / self.name

    def path(self, name: str) -> Path:
        """The folder of another entry, an input of this one."""
        return self.workdir / name

    def of(self, name: str) -> "Context":
        """The same of another entry."""
        return replace(self, name=name)


def read_config(workdir: str | Path) -> FrozenConfigDict:
    """The config of a run directory. Raises InputError where it is none."""
    path = Path(workdir) / CONFIG
    if not path.is_file():
        raise InputError(f"run {workdir}", f"it is no run directory (no {CONFIG})", "name one, e.g. runs/adpo")
    return FrozenConfigDict(ConfigDict(read_json(path)))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """That of an entry's folder, None where the entry is not finished. Raises InputError for a damaged one."""
    return read_if_there(folder / MANIFEST)


def was_trained(folder: Path) -> bool:
    """Whether a train entry left weights in its folder; it does not where no pair was left to train on."""
    return any((folder / file).exists() for file in (WEIGHTS, ADAPTER))


def read_if_there(path: Path) -> Any:
    """What a JSON file of the run directory holds, None without one. Raises InputError."""
    return read_json(path) if path.exists() else None


@contextmanager
def claimed(workdir: Path) -> Iterator[None]:
    """The run directory, held against a second run until the process ends. Raises InputError."""
    if not first_process():
        yield
        return
    check_writable(workdir)
    # A lock of lockf, unlike one of flock, does not outlive a killed run in its forked workers.
    with open(workdir / ".lock", "w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            rule = "another run is at work there"
            raise InputError(f"workdir {workdir}", rule, "wait for it, or choose another --workdir") from error
        except OSError:
            pass  # a file system without locks
        yield


def first_process() -> bool:
    """Whether this is the process that writes what all share."""
    # Asks for the number only where there are several, since asking takes hold of the accelerators.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def wait_for_all(step: str) -> None:
    """What the first process wrote, the others may read from here on."""
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices(step)
