"""Checkpoints of a training run: the state by Orbax, beside the position in the data."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from narrative_jax.core.errors import InputError
from narrative_jax.training.step import TrainState

KEPT = 2
_SHOWN = 5  # leaves that a message lists


class Checkpoints:
    """The newest checkpoints of one training run; a save is complete or absent, whatever stops it."""

    def __init__(self, folder: Path):
        for name in ("absl", "asyncio"):  # log tracebacks of what is raised as well, and here becomes one line
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.folder, self._saving = folder.absolute(), None
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(KEPT), cleanup_tmp_directories=True
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "data": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def latest(self) -> int | None:
        """The newest step that is on disk, or on its way there; None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: dict) -> None:
        """Save in the background; the state may be donated as soon as this returns. Raises InputError."""
        self.wait()
        self._saving = step
        items = ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()), data=ocp.args.JsonSave(data))
        with self._writing():
            self._manager.save(step, args=items)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict]:
        """The state, with the shapes and shardings of `like`, and the data's position.

        Raises InputError for an unreadable checkpoint and one with other leaves or shapes.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like._asdict())
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        with self._reading(step):
            odd = _differences(self._manager.item_metadata(step)["state"].tree, abstract)
            restored = None if odd else self._manager.restore(step, args=items)
        if odd:
            more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
            rule = f"it does not fit what is trained: {'; '.join(odd[:_SHOWN])}{more}"
            raise InputError(f"checkpoint {self.folder / str(step)}", rule, "choose another --workdir, or delete it")
        return TrainState(**restored["state"]), restored["data"]

    def wait(self) -> None:
        """Until everything is on disk. Raises InputError."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and let go. Raises InputError."""
        with self._writing():
            self._manager.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a failed write into one clear line that names the checkpoint which is still good."""
        try:
            yield
        except (OSError, ValueError) as error:
            good = self.latest()
            kept = "there is none before it" if good is None else f"that of step {good} is still good"
            rule = f"it could not be written ({_reason(error)}); {kept}"
            raise InputError(f"checkpoint of step {self._saving}", rule, "free the disk and run again") from error

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError, TypeError) as error:
            rule = f"it cannot be read ({_reason(error)})"
            raise InputError(f"checkpoint {self.folder / str(step)}", rule, "delete that folder") from error


def _differences(saved, wanted) -> list[str]:
    """What of the leaves that are wanted is missing in what was saved, is left over or has another shape."""
    there, here = _shapes(saved), _shapes(wanted)
    return [
        *(f"{name} is missing" for name in here if name not in there),
        *(f"{name} is not known" for name in there if name not in here),
        *(f"{n} is {there[n]}, not {shape}" for n, shape in here.items() if n in there and there[n] != shape),
    ]


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    """Shapes by dotted path; Orbax writes tuples as dictionaries or lists, which leaves these paths as they are."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}


def _reason(error: Exception) -> str:
    """The first line of a message; of TensorStore's long chains of causes only the last one."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].partition(" [tensorstore_spec")[0]
    return line if len(line) <= 100 else line.rsplit(": ", 1)[-1].partition(" [os_error_code")[0]
