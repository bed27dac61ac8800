"""A run directory: its config, a folder for each entry, and a manifest in those that are finished."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from narrative_jax.core import processes
from narrative_jax.core.errors import InputError
from narrative_jax.core.files import read_json
from narrative_jax.core.stop import StopFlag
from narrative_jax.rewards.base import WEIGHTS
from narrative_jax.runs.tables import Tables

CONFIG = "config.json"
HASHES = ".hashes.json"  # of files that were read, so that they need not be read again
COMPILED = ".compiled"  # a folder of programs, to be removed at will; see `core.compiled`
MANIFEST = "manifest.json"  # of an entry, written last: the entry is finished
INPUTS = "inputs.json"  # of an entry: what it is made from, written when it begins
ELAPSED = "elapsed.json"  # of an entry: seconds of the runs that did not finish
SAMPLES = "samples"  # of a train entry, a folder: how far it was after some steps
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
    def writes(self) -> bool:
        """Whether this is the process that writes what all share."""
        return processes.is_first()

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
