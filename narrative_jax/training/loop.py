"""The training loop: one for all algorithms."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import jax
from tqdm import tqdm

from narrative_jax.core import processes
from narrative_jax.core.errors import InputError, Stopped, check_count
from narrative_jax.core.mesh import spread, to_devices
from narrative_jax.core.stop import StopFlag
from narrative_jax.core.types import Params
from narrative_jax.training.checkpoint import Checkpoints
from narrative_jax.training.metrics import Metrics
from narrative_jax.training.step import Step, TrainState


@dataclass(frozen=True)
class Schedule:
    """How long a run takes and what happens every so many steps; 0 turns samples off."""

    total_steps: int
    save_every: int
    sample_every: int = 0

    def __post_init__(self):
        check_count("total_steps", self.total_steps, minimum=1)
        check_count("save_every", self.save_every, minimum=1)
        check_count("sample_every", self.sample_every)


def train(
    step: Step,
    state: TrainState,
    frozen,
    batches: Iterator,
    schedule: Schedule,
    folder: Path,
    stop: StopFlag,
    sample: Callable[[int, Params], None],
) -> TrainState:
    """Train to the last step, going on from the newest checkpoint in `folder`; returns the state at the end.

    `batches` yields (ids, batch) of this process's share and has `get_state` and `set_state`; `sample` draws pictures
    of how far the averaged weights are. Raises Stopped after saving where `stop` is requested, InputError for a loss
    that is no number and a disk that refuses.
    """
    state = spread(state, step.state_shardings)
    with closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        begun = checkpoints.latest() or 0
        if begun:
            state, position = checkpoints.restore(begun, state)
            batches.set_state(position)
        with closing(_Reporter(folder, begun, checkpoints)) as reporter, _bar(folder, begun, schedule) as bar:
            for done in range(begun + 1, schedule.total_steps + 1):
                ids, batch = next(batches)
                started = time.perf_counter()
                state, values = step.run(state, frozen, to_devices(batch, step.batch_sharding))
                # Waits for the step before: two are in flight at most.
                reporter.report(done, ids, values, started)
                last, planned = done == schedule.total_steps, done % schedule.save_every == 0
                # Of several processes each has its own flag, and a step may take as long as a stop leaves time for.
                stopping = processes.any_of("stop", stop.requested)
                if schedule.sample_every and done % schedule.sample_every == 0:
                    reporter.flush()  # what drawing takes is no step's time, and nothing is kept of a loss that is none
                    sample(done, state.ema_params)
                if last or planned or stopping:
                    reporter.flush()  # only a step whose loss is a number is saved
                    checkpoints.save(done, state, batches.get_state())
                if stopping and not last:
                    raise Stopped  # closing waits for the save
                bar.set_postfix(reporter.shown, refresh=False)
                bar.update()
    return state


def _bar(folder: Path, begun: int, schedule: Schedule) -> tqdm:
    return tqdm(
        initial=begun,
        total=schedule.total_steps,
        desc=folder.name,
        unit="step",
        mininterval=1,
        disable=not processes.is_first(),
    )


class _Reporter:
    """Fetches the numbers of a step while the next one runs, and stops the run where the loss is no number.

    The first process writes them; every process looks at the loss, so that all stop.
    """

    def __init__(self, folder: Path, begun: int, checkpoints: Checkpoints):
        self._metrics = Metrics(folder, begun) if processes.is_first() else None
        self._checkpoints = checkpoints
        self._pending, self._finished = None, 0.0
        self.shown: dict[str, str] = {}

    def report(self, step: int, ids, values, started: float) -> None:
        """Take the numbers of the step that `started` last, and write those of the one before."""
        self.flush()
        self._pending = step, ids, values, started

    def flush(self) -> None:
        """Write what is not written yet. Raises InputError."""
        if self._pending is None:
            return
        step, ids, values, started = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(values).items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            raise self._no_number(step, ids, values)
        now = time.perf_counter()
        seconds = now - max(started, self._finished)  # it could not run before the one ahead of it was done
        self._finished, self.shown = now, {"loss": f"{values['loss']:.4f}"}
        if self._metrics:
            self._metrics.write(step, {**values, "step_seconds": seconds})

    def close(self) -> None:
        """No more comes."""
        if self._metrics:
            self._metrics.close()

    def _no_number(self, step, ids, values):
        self._checkpoints.wait()
        good = self._checkpoints.latest()
        kept = "there is no checkpoint yet" if good is None else f"the last good checkpoint is step {good}"
        given = f"loss {values['loss']} (gradient norm {values['grad_norm']}) at step {step}"
        return InputError(given, f"its batch was {', '.join(ids)}; {kept}", "lower the learning rate or look at these")
