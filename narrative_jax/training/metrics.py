"""Where the numbers of a training run go: a JSON line a step, and TensorBoard."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import write_bytes
from narrative_jax.core.imports import without

with without("torch"):  # which it would import where it is installed, for seconds, and which nothing here needs
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary


class Metrics:
    """Writes `metrics.jsonl` and TensorBoard events in `folder`, going on after `step`: what came later is cut off.

    Both are written at once: a queue would lose its lines to a kill, and hang on a full disk.
    """

    def __init__(self, folder: Path, step: int):
        self._path = folder / "metrics.jsonl"
        if self._path.exists():
            lines = [line for line in self._path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            write_bytes(self._path, b"".join(line for line in lines if json.loads(line)["step"] <= step))
        events = folder / "tensorboard"
        events.mkdir(parents=True, exist_ok=True)
        self._lines = open(self._path, "ab", buffering=0)  # noqa: SIM115 (closed by `close`)
        self._events = EventsWriter(str(events / "events"))
        self._add_event(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of one step. Raises InputError where the disk refuses."""
        summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        line = json.dumps({"step": step, **values}) + "\n"
        try:
            if self._lines.write(line.encode()) < len(line):
                raise OSError("only a part of a line found room")
            self._add_event(step=step, summary=summary)
        except OSError as error:
            rule = f"it cannot be written ({error.strerror or error})"
            raise InputError(f"{self._path}", rule, "free the disk and run again") from error

    def close(self) -> None:
        """No more comes."""
        self._lines.close()
        with suppress(OSError):  # of a disk that was full before
            self._events.close()

    def _add_event(self, **content):
        self._events.write_event(Event(wall_time=time.time(), **content))
        self._events.flush()
