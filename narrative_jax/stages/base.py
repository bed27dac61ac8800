"""What a stage is: a module that turns what earlier entries left on disk into a folder of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ml_collections import FrozenConfigDict

from narrative_jax.core.stop import StopFlag


@dataclass(frozen=True)
class Context:
    """Where and with what an entry of the config runs.

    `config` is the whole config, `entry` the part of it called `name`; the stage writes under `folder` only.
    """

    config: FrozenConfigDict
    name: str
    workdir: Path
    stop: StopFlag = field(default_factory=StopFlag)

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


class Stage(Protocol):
    """A module of this folder. It may define two more names.

    `INPUTS`, a tuple of those keys of its entry whose values name other entries (a name, a tuple of names, or "" for
    none): the pipeline sees to it that they come first. `check(config, entry)`, which raises InputError for what would
    fail later; it is called before anything runs, and looks at the config only.
    """

    def run(self, context: Context) -> Mapping[str, float] | None:
        """Do the work, going on from what an interrupted run left, and return numbers for the summary.

        Where `context.stop.requested`, saves and raises Stopped.
        """
