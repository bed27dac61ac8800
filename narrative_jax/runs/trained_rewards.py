"""Rewards that train entries train, left in their folders and opened from there."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.mesh import make_mesh, own_mesh
from narrative_jax.core.options import parse
from narrative_jax.core.types import Params
from narrative_jax.models.lora import AdapterOptions, fingerprint, read_adapter, save_adapter, with_adapter_weights
from narrative_jax.rewards.base import PureReward, TrainableReward, WithWeights
from narrative_jax.runs.directory import ADAPTER, Context


def trainable_reward(context: Context) -> TrainableReward:
    """The options of the reward that the context's entry trains. Raises InputError."""
    name, known = context.entry.get("reward", None), context.tables.trainable_rewards
    check_name("reward to train", name, known)
    return parse(known[name], context.entry.get(name, {}), f"{context.name}.{name}")


def trained_reward(context: Context) -> PureReward:
    """What the context's entry trained, from disk. Raises InputError where it did not."""
    options, adapter = trainable_reward(context), context.folder / ADAPTER
    if not adapter.exists():
        return options.load(context.folder)
    name, made_with, _, weights = read_adapter(adapter)
    reward, params = with_reward_adapter(context, options, name, made_with, own_mesh(context.config.mesh))
    return WithWeights(reward, with_adapter_weights(adapter, dict(params), name, weights))


def save_trained_reward(
    context: Context, reward: PureReward, frozen: Params, params: Params, adapter: AdapterOptions | None
) -> None:
    """Leave what the context's entry trained of the reward, for `trained_reward`: its adapter, or all weights."""
    if adapter:
        save_adapter(context.folder / ADAPTER, params, context.name, adapter, fingerprint(frozen))
    else:
        trainable_reward(context).save(context.folder, reward, {**frozen, **params})


def trained_weights(context: Context) -> tuple[PureReward, Params]:
    """`trained_reward`, and its weights over this process's devices."""
    reward = trained_reward(context)
    return reward, reward.laid(own_mesh(context.config.mesh))


def begun(
    context: Context, options: TrainableReward, after: str, adapter: AdapterOptions | None
) -> tuple[PureReward, Params]:
    """The reward that the context's entry begins to train, and its weights over the run's mesh: with a fresh adapter on
    top, or as the entry `after` left it. Raises InputError.
    """
    mesh = make_mesh(context.config.mesh)
    if adapter:
        return with_reward_adapter(context, options, context.name, adapter, mesh)
    reward, read = options.untrained(_seed(context))
    weights = trained_reward(context.of(after)).laid(mesh) if after else read(mesh)
    # Steps are small beside weights: what trains is float32, whatever the type it was read in.
    return reward, {name: jnp.float32(value) if options.trains(name) else value for name, value in weights.items()}


def with_reward_adapter(
    context: Context, options: TrainableReward, name: str, adapter: AdapterOptions, mesh: Mesh
) -> tuple[PureReward, Mapping[str, Any]]:
    """The reward that the options begin with, a fresh adapter on top, and its weights over the mesh.

    Raises InputError for one that carries none.
    """
    reward, read = options.untrained(_seed(context))
    if not hasattr(reward, "with_adapter"):
        raise InputError(f"adapter on reward {reward.name!r}", "it carries none", "leave adapter out")
    return reward.with_adapter(read(mesh), name, **asdict(adapter))


def _seed(context):
    return context.config.seed + context.entry.get("seed", 0)
