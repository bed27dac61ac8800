"""Trains what an entry names, with the algorithm it names, on what earlier entries left or on a training set."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from narrative_jax.core import processes
from narrative_jax.core.errors import check_name, check_share
from narrative_jax.core.mesh import gathered, make_mesh, rows_here, spread
from narrative_jax.core.options import files_in, names_of, parse
from narrative_jax.data.loader import batches
from narrative_jax.runs.directory import Context
from narrative_jax.runs.generator import GENERATOR
from narrative_jax.runs.preferences import has_preferences, makes_preferences
from narrative_jax.training.loop import Schedule, train
from narrative_jax.training.optimizer import Optimizer
from narrative_jax.training.step import check_parts, make_step, new_state

INPUTS = ("source", "reward_from", "ensemble", "drawn", "after")
LAST = 50  # steps whose numbers stand for the end of a training


@dataclass(frozen=True)
class Options:
    """What is trained (`trains`), by which algorithm and on what; further options are those of the trainee.

    `source` is the entry whose records are trained on, "" where a training set is. `batch_size` is global, and done in
    `accumulate` parts one after the other.
    """

    algorithm: str
    total_steps: int
    batch_size: int
    optimizer: Optimizer
    save_every: int
    trains: str = GENERATOR
    source: str = ""
    hyper: dict[str, Any] = field(default_factory=dict)
    accumulate: int = 1
    ema_decay: float = 0.0
    seed: int = 0


def sections(context: Context) -> list[str]:
    """The options of the trainee, and its sections."""
    trainee = _trainee(context)
    return [*names_of(trainee.Options), *trainee.sections(context)]


def check(context: Context, options: Options) -> None:
    """Raise InputError for an unknown algorithm or option, and a batch that does not divide the mesh."""
    algorithm, trainee = _algorithm(context, options), _trainee(context)
    own = _trainee_options(context)
    trainee.check(context, algorithm, own)
    Schedule(options.total_steps, options.save_every, getattr(own, "sample_every", 0))
    options.optimizer.schedule(options.total_steps)
    check_share("ema_decay", options.ema_decay)
    check_parts("batch_size", options.batch_size, options.accumulate, algorithm, make_mesh(context.config.mesh))


def files(context: Context) -> Iterable[str]:
    """The trainee's."""
    return [*files_in(_trainee_options(context)), *_trainee(context).files(context)]


def ended_by(options: Options) -> str:
    """The decay of the learning rate to 0 at the last step; "" where it is constant, and more steps can follow."""
    decay = options.optimizer.decay
    return "" if decay == "constant" else f"optimizer.decay {decay!r} ends with the last step, no more can follow"


def run(context: Context, options: Options) -> dict[str, float]:
    """Train to the last step and leave the averaged weights, all of them or the adapter's.

    Returns the means of the last numbers and how often the step was compiled. Where screening left no pair and the
    config goes on, nothing is trained. Raises InputError, and Stopped after saving.
    """
    source = options.source
    if source and makes_preferences(context, source) and not has_preferences(context, source):
        print(f"{context.name}: nothing to train on, screening left no pair", flush=True)
        return {"step": 0}
    algorithm, mesh = _algorithm(context, options), make_mesh(context.config.mesh)
    optimizer = options.optimizer.build(options.total_steps)
    trainee = _trainee(context).open(context, algorithm, _trainee_options(context))
    seed = context.config.seed + options.seed
    step = make_step(
        algorithm, trainee, optimizer, mesh, seed=seed, ema_decay=options.ema_decay, accumulate=options.accumulate
    )
    size, make_batch = trainee.batches(algorithm)
    order = batches(size, make_batch, options.batch_size, seed, rows=rows_here(mesh, options.batch_size))
    frozen = spread(trainee.frozen, step.frozen_shardings)
    schedule = Schedule(options.total_steps, options.save_every, trainee.sample_every)
    state = new_state(trainee.params, optimizer)
    state = train(step, state, frozen, order, schedule, context.folder, context.stop, trainee.sample)
    weights = {name: gathered(value) for name, value in state.ema_params.items()}
    if context.writes:
        trainee.save(weights)
    numbers = processes.first_does(f"{context.name}: numbers", lambda: last_numbers(context.folder))
    return {**numbers, f"compile/{context.name}": step.run._cache_size()}


def last_numbers(folder: Path) -> dict[str, float]:
    """The last step, and the means of the numbers of the last `LAST` ones: those of one batch say little.

    They are read from the disk: a run that was killed after its last step has them too.
    """
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-LAST:]
    steps = [json.loads(line) for line in lines]
    names = [name for name in steps[-1] if name not in ("step", "step_seconds")]
    return {"step": steps[-1]["step"], **{name: float(np.mean([each[name] for each in steps])) for name in names}}


def _algorithm(context, options):
    known = context.tables.algorithms
    check_name("algorithm", options.algorithm, known)
    return parse(known[options.algorithm], options.hyper, f"{context.name}.hyper")


def _trainee(context):
    trains = context.entry.get("trains", GENERATOR)
    check_name(f"{context.name}.trains", trains, context.tables.trainees)
    return context.tables.trainees[trains]


def _trainee_options(context):
    trainee = _trainee(context)
    others = ["stage", *names_of(Options), *trainee.sections(context)]
    return parse(trainee.Options, context.entry, context.name, others)
