"""Checkpoints of a training run: the state by Orbax, beside the position in the data."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from narrative_jax.core.errors import InputError
from narrative_jax.training.step import TrainState

KEPT = 2


class Checkpoints:
    """The newest checkpoints of one training run; a save is complete or absent, whatever stops it."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=("state", "data"))

    def latest(self) -> int | None:
        """The newest saved step, None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: dict) -> None:
        """Save in the background; the state may be donated as soon as this returns. Raises InputError."""
        items = ocp.args.Composite(state=ocp.args.StandardSave(state._asdict()), data=ocp.args.JsonSave(data))
        with self._guard(step):
            self._manager.save(step, args=items)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict]:
        """The state, with the shapes and shardings of `like`, and the data's position. Raises InputError."""
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract._asdict()), data=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=items)
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"checkpoint {self.folder / str(step)}", f"it cannot be read ({reason})", "delete that folder"
            ) from error
        return TrainState(**restored["state"]), restored["data"]

    def wait(self, step: int) -> None:
        """Until everything is on disk. Raises InputError."""
        with self._guard(step):
            self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

    def _guard(self, step):
        return _Guard(self, step)


class _Guard:
    """Turns a failed write into one clear line that names the checkpoint which is still good."""

    def __init__(self, checkpoints, step):
        self.checkpoints, self.step = checkpoints, step

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, OSError | ValueError):
            good = self.checkpoints.latest()
            kept = f"step {good} is still good" if good is not None else "there is none yet"
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"checkpoint of step {self.step}",
                f"it could not be written ({reason}); {kept}",
                "free the disk, restart",
            ) from error
        return False
