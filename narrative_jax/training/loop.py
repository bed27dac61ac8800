"""The training loop: one for all algorithms."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
from tqdm import tqdm

from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.core.stop import StopFlag
from narrative_jax.training.checkpoint import Checkpoints
from narrative_jax.training.metrics import Metrics
from narrative_jax.training.step import Step, TrainState


@dataclass(frozen=True)
class Schedule:
    """How long a run takes and what happens every so many steps; 0 turns samples off."""

    total_steps: int
    save_every: int
    sample_every: int = 0


def train(
    step: Step,
    state: TrainState,
    frozen,
    batches: Iterator,
    schedule: Schedule,
    folder: Path,
    stop: StopFlag,
    sample: Callable[[int, TrainState], None],
) -> tuple[TrainState, dict[str, float]]:
    """Train to the last step, going on from the newest checkpoint in `folder`; returns the state at
    the end and the last step's numbers.

    `batches` yields (ids, batch) and has `get_state` and `set_state`; `sample` draws pictures of how far it is.
    Raises Stopped after saving where `stop` is requested, InputError for a loss that is no number.
    """
    checkpoints = Checkpoints(folder / "checkpoints")
    state = jax.device_put(state, step.state_shardings)
    begun = checkpoints.latest() or 0
    if begun:
        state, position = checkpoints.restore(begun, state)
        batches.set_state(position)
    metrics = Metrics(folder, begun)
    reporter = _Reporter(metrics, checkpoints)
    bar = tqdm(range(begun, schedule.total_steps), initial=begun, total=schedule.total_steps, desc=folder.name)
    for number in bar:
        ids, batch = next(batches)
        batch = jax.device_put(batch, step.batch_sharding)
        state, values = step.run(state, frozen, batch)
        reporter.report(number + 1, ids, values)
        done, stopping = number + 1, stop.requested
        if done % schedule.save_every == 0 or done == schedule.total_steps or stopping:
            reporter.flush()  # only a step whose loss is a number is saved
            checkpoints.save(done, state, batches.get_state())
        if schedule.sample_every and done % schedule.sample_every == 0:
            sample(done, state)
        if reporter.latest:
            bar.set_postfix(loss=f"{reporter.latest['loss']:.4f}", refresh=False)
        if stopping and done < schedule.total_steps:
            checkpoints.wait(done)
            metrics.close()
            raise Stopped
    checkpoints.wait(schedule.total_steps)
    checkpoints.close()
    metrics.close()
    return state, reporter.latest


class _Reporter:
    """Fetches the numbers of a step while the next one runs, and stops the run where the loss is no number."""

    def __init__(self, metrics: Metrics, checkpoints: Checkpoints):
        self._metrics, self._checkpoints = metrics, checkpoints
        self._pending, self._last = None, time.perf_counter()
        self.latest: dict[str, float] = {}

    def report(self, step: int, ids, values) -> None:
        """Take the numbers of a step, and write those of the one before."""
        self.flush()
        self._pending = step, ids, values

    def flush(self) -> None:
        """Write what is not written yet. Raises InputError."""
        if self._pending is None:
            return
        step, ids, values = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(values).items()}
        if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
            good = self._checkpoints.latest()
            kept = f"the last good checkpoint is step {good}" if good else "there is no checkpoint yet"
            given = f"loss {values['loss']} (gradient norm {values['grad_norm']}) at step {step}"
            raise InputError(
                given, f"its batch was {', '.join(ids)}; {kept}", "lower the learning rate or look at these"
            )
        now = time.perf_counter()
        self._metrics.write(step, {**values, "step_seconds": now - self._last})
        self._last, self.latest = now, values
