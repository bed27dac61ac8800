"""What a stage is: a module that turns what earlier entries left on disk into a folder of its own."""

from collections.abc import Mapping
from typing import Any, Protocol

from narrative_jax.runs.directory import Context


class Stage(Protocol):
    """A module of this folder, with the dataclass `Options` of an entry's options. It may define five more names.

    `INPUTS`, a tuple of those options whose values name other entries (a name, a tuple of names, or "" for none): the
    pipeline sees to it that they come first. `sections(context)`, the names of further sections in the entry, which are
    others' options. `check(context, options)`, which raises InputError for what would fail later; it is called before
    anything runs, and looks at the config and the files that it names. `files(context)`, what is read beside the files
    that the options themselves name. `ended_by(options)`: why more `total_steps` cannot go on where fewer ended, ""
    where they can. `ALONE`, True where of several processes the first does all, as a stage does that reads much and
    computes little.
    """

    Options: type

    def run(self, context: Context, options: Any) -> Mapping[str, float] | None:
        """Do the work, going on from what an interrupted run left, and return numbers for the summary.

        Where there are several processes, all of them run it; the first writes what all share.

        Where `context.stop.requested`, saves and raises Stopped.
        """
