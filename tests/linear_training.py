"""Training runs small enough for tests: a denoiser that is one matrix, with another one in place of an adapter.

As a command, for other numbers of devices and processes: `python tests/linear_training.py '{"folder": ..., ...}'`.
"""

import json
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.algorithms.base import Models, Role
from narrative_jax.algorithms.dpo import DPO
from narrative_jax.algorithms.sft import SFT
from narrative_jax.core import processes
from narrative_jax.core.command import exit_code
from narrative_jax.core.mesh import gathered, make_mesh, rows_here, spread
from narrative_jax.core.stop import StopFlag
from narrative_jax.core.types import Params
from narrative_jax.data.loader import batches
from narrative_jax.training.loop import Schedule, train
from narrative_jax.training.optimizer import Optimizer
from narrative_jax.training.step import make_step, new_state

TOKENS, WIDTH, EXAMPLES, BATCH = 3, 16, 40, 8
ALGORITHMS = {"sft": SFT(text_dropout=0.5), "dpo": DPO(beta=20.0, eta=0.5, b=0.5, preserve=0.5)}


@dataclass(frozen=True)
class Uniform:
    """All times alike."""

    def sample(self, key, shape):
        return jax.random.uniform(key, shape)


@dataclass(frozen=True)
class Linear:
    """Predicts noisy · (kernel + delta) + conditioning; `delta` is what is trained, the reference goes without it."""

    weights: tuple[str, ...] = ("kernel", "delta")
    prediction_type: str = "velocity"
    timestep_distribution: Uniform = field(default_factory=Uniform)

    @property
    def axes(self):
        return {name: ("embed", "mlp") for name in self.weights}

    def drop(self, conditioning, *, text=None, subjects=None):
        return jnp.where(text[:, None], 0.0, conditioning)

    def prepare(self, params, conditioning):
        return None

    def prepares_as(self, base):
        return False

    def denoise(self, params, noisy, t, conditioning, prepared):
        assert params.keys() == set(self.weights) and prepared is None
        conditioning = jnp.repeat(conditioning, len(noisy) // len(conditioning), 0)
        return noisy @ sum(params.values()) + conditioning[:, None]


@dataclass(frozen=True)
class LinearTrainee:
    """A linear policy and its reference, which goes without what is trained."""

    params: Params
    frozen: Params
    policy: Linear = Linear()
    reference: Linear = Linear(("kernel",))

    @property
    def axes(self):
        return self.policy.axes

    def models(self, params, frozen):
        return Models(Role(self.policy, {**frozen, **params}), Role(self.reference, frozen))


def make_trainee(width=WIDTH, delta=0.0) -> LinearTrainee:
    """A linear policy and its reference; `delta` scales what the policy has in place of an adapter."""
    rng = np.random.default_rng(0)
    kernel, change = (jnp.asarray(rng.normal(size=(width, width)) / width, jnp.float32) for _ in range(2))
    return LinearTrainee({"delta": delta * change}, {"kernel": kernel})


def make_batch(indices, width=WIDTH, algorithm="sft", bad=None):
    """(ids, batch) of examples or pairs that follow from their indices; number `bad` is no number."""
    indices = np.asarray(indices)

    def draw(kind, *shape):
        rngs = [np.random.default_rng([kind, int(index)]) for index in indices]
        return np.float32([rng.normal(size=shape) for rng in rngs])

    batch, kinds = {"conditioning": draw(0, width)}, {"sft": ("latents",), "dpo": ("chosen", "rejected")}[algorithm]
    batch |= {kind: draw(1 + number, TOKENS, width) for number, kind in enumerate(kinds)}
    if algorithm == "dpo":
        batch["gap"] = np.abs(draw(3))
    batch[kinds[0]][indices == bad] = np.nan
    return [f"example-{index}" for index in indices], batch


def run(
    folder,
    *,
    steps=6,
    save_every=2,
    mesh=None,
    algorithm="sft",
    width=WIDTH,
    accumulate=1,
    stop=None,
    look=None,
    bad=None,
):
    """Train, and return state and step. `look(number, ids)` sees each batch of a run as it is made."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    trainee, optimizer = make_trainee(width), Optimizer(0.01, warmup_steps=1).build(steps)
    step = make_step(
        ALGORITHMS[algorithm], trainee, optimizer, make_mesh(mesh or {"data": -1}),
        seed=0, ema_decay=0.9, accumulate=accumulate,
    )  # fmt: skip
    order = batches(
        EXAMPLES, lambda indices: make_batch(indices, width, algorithm, bad), BATCH, 0,
        rows=rows_here(step.batch_sharding.mesh, BATCH),
    )  # fmt: skip
    frozen = spread(trainee.frozen, step.frozen_shardings)
    state = new_state(trainee.params, optimizer)
    schedule = Schedule(steps, save_every)
    seen = _Seen(order, look or (lambda number, ids: None))
    state = train(step, state, frozen, seen, schedule, folder, stop or StopFlag(), lambda step, state: None)
    return state, step


class _Seen:
    """The batches of an iterator, each shown to `look` before it is handed on."""

    def __init__(self, order, look):
        self.order, self.look = order, look
        self.get_state, self.set_state = order.get_state, order.set_state

    def __next__(self):
        ids, batch = next(self.order)
        self.look(self.get_state()["next_index"], ids)
        return ids, batch


def _command(options):
    limit_after, stop_after, stop = options.pop("limit_after", 0), options.pop("stop_after", 0), StopFlag()

    def look(number, ids):
        if number == limit_after + 1 and limit_after:  # once that step is saved no file may grow beyond 20 kB
            while not (Path(options["folder"]) / "checkpoints" / str(limit_after)).exists():
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        if number == stop_after and processes.index() == processes.count() - 1:
            stop.requested = True

    state, step = run(stop=stop, look=look, **options)
    weights = {name: gathered(value) for name, value in state.ema_params.items()}
    if processes.is_first():
        np.savez(Path(options["folder"]) / "end.npz", compiled=step.run._cache_size(), **weights)


if __name__ == "__main__":
    with processes.joined():
        code = exit_code(lambda: _command(json.loads(sys.argv[1])))
    sys.exit(code)
