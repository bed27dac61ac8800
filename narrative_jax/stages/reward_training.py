"""Rewards while they are trained on preferences."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from narrative_jax.core.errors import check_name
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import STORYBOOK, save_weights
from narrative_jax.models.id_encoder import STATISTICS
from narrative_jax.models.network import split
from narrative_jax.models.reward_heads import AESTHETIC_HEADS, LinearHead
from narrative_jax.models.scalar_reward import SCALAR_SIZES, TOWERS, scalar_names
from narrative_jax.rewards.aesthetic import Aesthetic, load_aesthetic
from narrative_jax.rewards.base import PureReward, below, under
from narrative_jax.rewards.clip_scores import load_clip
from narrative_jax.rewards.scalar import load_scalar, new_scalar
from narrative_jax.stages.common import WEIGHTS, call, weights_file


class NewReward(NamedTuple):
    """An untrained reward, its weights that train and those that do not; it is trained on pictures of `side`².

    `axes` name those of all weights, for sharding. `save` writes all weights to a folder, `load` gives the reward that
    was saved there.
    """

    reward: PureReward
    params: Params
    frozen: Params
    axes: Mapping[str, tuple]
    side: int
    save: Callable[[Path, Params], None]
    load: Callable[[Path], PureReward]

    @property
    def policy(self):
        """As the train step wants it: what scores, and the axes of all weights."""
        return SimpleNamespace(score=self.reward.score, network=SimpleNamespace(axes=self.axes))


def new_reward(entry, seed: int) -> NewReward:
    """The reward that a train entry names, with the options of its section. Raises InputError."""
    check_name("reward to train", entry.get("reward", None), NEW)
    return call(f"reward {entry.reward}", NEW[entry.reward], {"seed": seed, **entry.get(entry.reward, {})})


def _scalar(seed, clip="", subject="", size="ViT-L/14", regions=(), train_towers=False):
    check_name("size of scalar", size, SCALAR_SIZES)
    files = weights_file(clip, size, "clip"), weights_file(subject, size, "iresnet")
    reward, weights = new_scalar(*files, size, regions, seed)
    kept = TOWERS if not train_towers else ()
    frozen = {
        name: value for name, value in weights.items() if name.partition(".")[0] in kept or name.endswith(STATISTICS)
    }

    def save(folder, params):
        save_weights(folder / WEIGHTS, params, scalar_names(params))
        reward.tokenizer.save(folder / "tokenizer.json")

    side = max(reward.config.vision.image_size, reward.config.side)
    params = {name: value for name, value in weights.items() if name not in frozen}
    load = partial(_load_scalar, size, regions)
    return NewReward(reward, params, frozen, reward.network.axes, side, save, load)


def _load_scalar(size, regions, folder):
    return load_scalar(folder / WEIGHTS, size, regions)


def _aesthetic(seed, clip="", version=STORYBOOK):
    check_name("version of aesthetic to train", version, AESTHETIC_HEADS)
    clip = weights_file(clip, version, "clip")
    towers = load_clip(clip, STORYBOOK if version == STORYBOOK else "ViT-L/14")
    network, head = split(LinearHead(AESTHETIC_HEADS[version], rngs=nnx.Rngs(seed)))
    reward, frozen = Aesthetic(towers, version, network, head), under("clip", towers.params)

    def save(folder, params):
        save_weights(folder / WEIGHTS, below("head", params), AESTHETIC_HEADS[version].names, jnp.float32)

    def load(folder):
        return load_aesthetic(clip, folder / WEIGHTS, version)

    params = under("head", head)
    axes = {name: (None,) * value.ndim for name, value in {**params, **frozen}.items()}  # a tower that fits everywhere
    return NewReward(reward, params, frozen, axes, towers.vision.image_size, save, load)


NEW = {"scalar": _scalar, "aesthetic": _aesthetic}
