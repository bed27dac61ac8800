"""The train step: one function for all algorithms, jitted once."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from narrative_jax.algorithms.base import Algorithm, Batch, Loss, Models
from narrative_jax.core.errors import InputError
from narrative_jax.core.mesh import batch_sharding, check_batch, in_parts, replicated, traced_on, weight_shardings
from narrative_jax.core.types import Params


class TrainState(NamedTuple):
    """All that a restart needs besides the data's position: the random key of a step follows from seed and step."""

    step: jax.Array
    params: Params
    opt_state: Any
    ema_params: Params


class Trainee(Protocol):
    """What the step must know of what is trained; the rest is in `trainees.base`."""

    axes: Mapping[str, tuple]
    params: Params
    frozen: Params

    def models(self, params: Params, frozen: Params) -> Models:
        """Who plays which role, with these weights."""


class Step(NamedTuple):
    """The jitted step (state, frozen, batch) -> (state, metrics), and the shardings of what goes in."""

    run: Callable
    state_shardings: TrainState
    frozen_shardings: dict
    batch_sharding: Any


def check_parts(name: str, batch_size: int, accumulate: int, algorithm: Algorithm, mesh: Mesh) -> None:
    """Raise InputError for a batch, called `name`, that mesh and parts do not divide, or that must be whole."""
    for parts in (accumulate, algorithm.parts):
        check_batch(name, batch_size, mesh, parts)
    if algorithm.whole_batch and accumulate > 1:
        rule = f"{type(algorithm).__name__} compares the examples of a whole batch"
        raise InputError(f"accumulate {accumulate}", rule, "set it to 1")


def new_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    copy = jax.tree.map(jnp.copy, params)  # the step donates the state, and no buffer may be donated twice
    return TrainState(jnp.int32(0), copy, optimizer.init(params), jax.tree.map(jnp.copy, params))


def gradients(algorithm: Algorithm, trainee: Trainee, params, frozen, batch: Batch, key, accumulate: int = 1):
    """Mean gradient and mean metrics of a global batch, in `accumulate` microbatches one after the other."""

    def objective(params, part) -> tuple[jax.Array, Loss]:
        loss = algorithm.loss(trainee.models(params, frozen), part, key)
        return loss.sum, loss

    def accumulated(part):
        (_, loss), grads = jax.value_and_grad(objective, has_aux=True)(params, part)
        return grads, loss

    batch = {"index": jnp.arange(len(jax.tree.leaves(batch)[0]), dtype=jnp.int32), **batch}
    batch = algorithm.experience(trainee.models(params, frozen), batch, key)
    if accumulate == 1:
        grads, loss = accumulated(batch)
    else:
        parts = in_parts(batch, accumulate)
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(accumulated, jax.tree.map(lambda x: x[0], parts)))
        add = lambda total, part: (jax.tree.map(jnp.add, total, accumulated(part)), None)  # noqa: E731
        (grads, loss), _ = jax.lax.scan(add, zeros, parts)
    metrics = {"loss": loss.sum, **loss.metrics}
    return jax.tree.map(lambda x: x / loss.weight, (grads, metrics))


def make_step(
    algorithm: Algorithm,
    trainee: Trainee,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    seed: int,
    ema_decay: float,
    accumulate: int = 1,
) -> Step:
    """The step for one mesh. The average of the weights follows faster at first: its decay grows from 0.1."""

    def run(state: TrainState, frozen: Params, batch: Batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        with traced_on(mesh):
            grads, metrics = gradients(algorithm, trainee, state.params, frozen, batch, key, accumulate)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema_params = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema_params, params)
        metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state, ema_params), metrics

    axes, everywhere = trainee.axes, replicated(mesh)
    shardings = weight_shardings(axes, {n: w.shape for n, w in {**trainee.frozen, **trainee.params}.items()}, mesh)
    trained = {name: shardings[name] for name in trainee.params}
    # A moment lies as its weight does, or Adam would gather what is spread; what is no moment (counts) is everywhere.
    # Of two optimisers, each of a part of the weights, the moments of the other part are masked: they stay so.
    masked = lambda moment: isinstance(moment, optax.MaskedNode)  # noqa: E731
    moments = optax.tree.map_params(
        optimizer, lambda moment, sharding: moment if masked(moment) else sharding,
        jax.eval_shape(optimizer.init, trainee.params), trained,
        transform_non_params=lambda _: everywhere, is_leaf=masked,
    )  # fmt: skip
    state = TrainState(everywhere, trained, moments, trained)
    frozen = {name: shardings[name] for name in trainee.frozen}
    batch = batch_sharding(mesh)
    jitted = jax.jit(run, donate_argnums=0, in_shardings=(state, frozen, batch), out_shardings=(state, everywhere))
    return Step(jitted, state, frozen, batch)
