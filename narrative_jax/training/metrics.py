"""Where the numbers of a training run go: a JSON line a step, TensorBoard, and the terminal."""

import json
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from narrative_jax.core.files import write_bytes


class Metrics:
    """Writes `metrics.jsonl` and TensorBoard events in `folder`, going on after `step`: later lines are cut off."""

    def __init__(self, folder: Path, step: int):
        path = folder / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            write_bytes(path, b"".join(line for line in lines if json.loads(line)["step"] <= step))
        self._lines = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1, write_to_disk=True)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of one step."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Everything is on disk."""
        self._lines.close()
        self._events.close()
