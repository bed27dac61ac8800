"""The programs of a config as they would be compiled for a mesh: shapes and shardings, no weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from narrative_jax.core.mesh import batch_sharding, check_batch, traced_on, weight_shardings
from narrative_jax.core.options import parse
from narrative_jax.generators.sampling import Drawer
from narrative_jax.planning.flops import Flops, flops, live
from narrative_jax.planning.rewards import REWARD, planned_reward, scored_with
from narrative_jax.planning.trainee import abstract_trainee
from narrative_jax.runs.directory import Context
from narrative_jax.runs.entries import options_of
from narrative_jax.runs.generator import preset_of, sampling_of
from narrative_jax.trainees.encoding import batch_shapes
from narrative_jax.training.step import check_parts, gradients, make_step, new_state


@dataclass(frozen=True)
class Program:
    """A jitted function and the shapes of its arguments, spread over a mesh.

    A run does `rows` records, of a kind that `unit` names, in `accumulate` parts; `runs` are planned. `useful` are the
    FLOPs of a run without what is worked out again to save memory, None where nothing is. The first `weights` of the
    arguments' arrays are weights and what goes with them; those that train have `trained_bytes` on all chips together.
    """

    name: str
    unit: str
    rows: int
    runs: int
    jitted: Callable
    arguments: tuple
    accumulate: int = 1
    useful: Callable[[], Flops] | None = None
    weights: int = 0
    trained_bytes: int = 0

    def trace(self) -> Any:
        """The traced program, ready to be lowered."""
        return self.jitted.trace(*self.arguments)

    def argument_bytes(self) -> int:
        """Bytes of its arguments on a chip."""
        return sum(bytes_on_chip(leaf) for leaf in jax.tree.leaves(self.arguments))


def train_program(context: Context, mesh: Mesh, kept: str = "", accumulate: int = 0) -> Program:
    """The train step of the context's entry; `kept` and `accumulate` stand for what preset and entry say.

    Raises InputError.
    """
    options = options_of(context)
    accumulate = accumulate or options.accumulate
    algorithm = parse(context.tables.algorithms[options.algorithm], options.hyper, f"{context.name}.hyper").steadied()
    check_parts(f"{context.name}.batch_size", options.batch_size, accumulate, algorithm, mesh)
    trainee, batch = _planned(context, algorithm, kept)
    optimizer = options.optimizer.build(options.total_steps)
    step = make_step(
        algorithm, trainee, optimizer, mesh,
        seed=context.config.seed + options.seed, ema_decay=options.ema_decay, accumulate=accumulate,
    )  # fmt: skip
    state = jax.eval_shape(lambda params: new_state(params, optimizer), trainee.params)
    arguments = (
        jax.tree.map(_spread, state, step.state_shardings),
        jax.tree.map(_spread, trainee.frozen, step.frozen_shardings),
        jax.tree.map(lambda leaf: _spread(leaf, step.batch_sharding), batch),
    )

    def useful():
        # Without a mesh, attention is two products forward, whatever does them on the mesh.
        whole, _ = _planned(context, algorithm, "all")
        traced = jax.make_jaxpr(lambda *given: gradients(algorithm, whole, *given, jax.random.key(0)))
        return flops(live(traced(whole.params, whole.frozen, batch)))

    unit = {"preferences": "pairs", "annotations": "pairs"}.get(algorithm.batch, algorithm.batch)
    return Program(
        context.name, unit, options.batch_size, options.total_steps, step.run, arguments, accumulate, useful,
        weights=len(jax.tree.leaves(arguments[:2])),
        trained_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in trainee.params.values()),
    )  # fmt: skip


def _planned(context, algorithm, kept):
    """What is trained, and the shapes of a batch."""
    rows = options_of(context).batch_size
    if context.entry.get("trains", "") == REWARD:
        return planned_reward(context, algorithm, kept, rows)
    preset = preset_of(context)
    trainee = abstract_trainee(context, preset.keeping(kept) if kept else preset, algorithm)
    return trainee, batch_shapes(algorithm.batch, trainee.base, rows, trainee.reward)


def scoring_program(context: Context, mesh: Mesh) -> Program:
    """What criticises and scores a batch of pictures with what the context's entry trains, without its adapter.

    As many pictures as the first entry that scores with it takes. Raises InputError.
    """
    reward, shapes, rows, pictures, asked = scored_with(context)
    check_batch(f"batch_size of what scores with {context.name}", rows, mesh)

    def run(params, fitted, asked):
        with traced_on(mesh):
            return reward.criticise(params, fitted, asked)

    given = jax.tree.map(lambda leaf: _spread(leaf, batch_sharding(mesh)), (pictures, asked))
    arguments = (_spread_weights(shapes, reward.axes, mesh), *given)
    return Program("scoring", "pictures", rows, 1, jax.jit(run), arguments)


def sampler_program(context: Context, mesh: Mesh) -> Program:
    """What draws a batch of pictures with the generator that the run begins with. Raises InputError."""
    generator, shapes = preset_of(context).abstract()
    sampling = sampling_of(context)
    check_batch("sampling.batch_size", sampling.batch_size, mesh)
    drawer, batch = Drawer(generator, sampling, mesh), batch_sharding(mesh)
    asked = batch_shapes("scenes", generator, sampling.batch_size)["conditioning"]
    seeds = jax.ShapeDtypeStruct((sampling.batch_size,), jnp.uint32)
    arguments = (
        _spread_weights(shapes, generator.axes, mesh),
        _spread(seeds, batch),
        jax.tree.map(lambda leaf: _spread(leaf, batch), asked),
    )
    return Program("sampling", "pictures", sampling.batch_size, 1, drawer.run, arguments)


def bytes_on_chip(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of a chip's part of an array."""
    part = jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
    return part.size * part.dtype.itemsize


def _spread(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _spread_weights(shapes: Mapping[str, Any], axes: Mapping[str, tuple], mesh: Mesh) -> dict[str, Any]:
    shardings = weight_shardings(axes, {name: leaf.shape for name, leaf in shapes.items()}, mesh)
    return {name: _spread(leaf, shardings[name]) for name, leaf in shapes.items()}
