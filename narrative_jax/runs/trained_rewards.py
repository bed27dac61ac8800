"""Rewards that train entries train, left in their folders and opened from there."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.mesh import batch_sharding, devices_of_batch, gathered, make_mesh, own_mesh, traced_on
from narrative_jax.core.options import parse
from narrative_jax.core.types import Params
from narrative_jax.models.lora import AdapterOptions, fingerprint, read_adapter, save_adapter, with_adapter_weights
from narrative_jax.rewards.base import BATCH_SIZE, PureReward, TrainableReward, WithWeights
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


@dataclass(frozen=True)
class Saver:
    """Leaves what the context's entry trains of a reward, for `trained_reward`: an adapter on a base of this hash, or
    all weights, `beside` those that did not train.
    """

    context: Context
    reward: PureReward
    adapter: AdapterOptions | None
    base: str
    beside: Params

    @classmethod
    def on(cls, context: Context, reward: PureReward, frozen: Params, adapter: AdapterOptions | None) -> "Saver":
        """For what trains beside these weights; of several processes all call it, since each holds its parts."""
        if adapter:
            return cls(context, reward, adapter, fingerprint(frozen), {})
        whole = {name: gathered(value) for name, value in frozen.items()}
        return cls(context, reward, None, "", whole if context.writes else {})

    def save(self, params: Params) -> None:
        """Write what was trained. Raises InputError where the disk refuses."""
        if self.adapter:
            save_adapter(self.context.folder / ADAPTER, params, self.context.name, self.adapter, self.base)
        else:
            trainable_reward(self.context).save(self.context.folder, self.reward, {**self.beside, **params})


def scorer(context: Context) -> tuple[PureReward, int, Callable]:
    """What the context's entry trained, how many pictures it scores at once, and what does so on this process's
    devices: of pictures f32[b, h, w, 3] and what `encode` gives of their scenes, scores f32[b, aspects].
    """
    reward, mesh = trained_reward(context), own_mesh(context.config.mesh)
    devices = devices_of_batch(mesh)
    rows = -(-scored_at_once(context) // devices) * devices
    params = reward.laid(mesh)

    @jax.jit
    def run(params, pictures, asked):
        with traced_on(mesh):
            return reward.score(params, pictures, asked)

    return reward, rows, lambda *given: run(params, *jax.device_put(given, batch_sharding(mesh)))


def scored_at_once(context: Context) -> int:
    """How many pictures the first entry that scores with what the context's entry trains takes at once."""
    sections = (context.config[name] for name in context.config.stages if context.config[name].stage != "train")
    sizes = [each.get("batch_size", None) for each in sections if each.get("reward_from", "") == context.name]
    return next(filter(None, sizes), BATCH_SIZE)


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
    return reward, as_trained(options, trained_reward(context.of(after)).laid(mesh) if after else read(mesh))


def as_trained(options: TrainableReward, weights: Params) -> Params:
    """Weights in the types that they are trained in: steps are small beside weights, so what trains is float32."""
    return {name: value.astype(jnp.float32) if options.trains(name) else value for name, value in weights.items()}


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
