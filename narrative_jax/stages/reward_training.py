"""Rewards while they are trained on preferences."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image, ImageOps

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.images import fit_image
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import save_weights
from narrative_jax.models.id_encoder import STATISTICS
from narrative_jax.models.network import below, split, under
from narrative_jax.models.reward_heads import AESTHETIC_HEADS, LinearHead
from narrative_jax.models.scalar_reward import SCALAR_SIZES, TOWERS
from narrative_jax.models.shipped import STORYBOOK, weights_file
from narrative_jax.rewards.aesthetic import Aesthetic, load_aesthetic
from narrative_jax.rewards.base import PureReward
from narrative_jax.rewards.clip_scores import load_clip
from narrative_jax.rewards.scalar import load_scalar, new_scalar
from narrative_jax.stages.common import WEIGHTS, call


@dataclass(frozen=True)
class NewReward:
    """An untrained reward; `axes` name those of all weights, for sharding, and `trains` says which weights train.

    `read` gives the weights, `fitted` a picture as it is trained on, all of one size. `save` writes all weights to a
    folder, `load` gives the reward that was saved there.
    """

    reward: PureReward
    axes: Mapping[str, tuple]
    trains: Callable[[str], bool]
    read: Callable[[], Params]
    fitted: Callable[[np.ndarray], np.ndarray]
    save: Callable[[Path, Params], None]
    load: Callable[[Path], PureReward]

    @property
    def policy(self):
        """As the train step wants it: what scores, and the axes of all weights."""
        return SimpleNamespace(score=self.reward.score, network=SimpleNamespace(axes=self.axes))

    @property
    def params(self) -> Params:
        """The weights that train."""
        return {name: value for name, value in self._weights.items() if self.trains(name)}

    @property
    def frozen(self) -> Params:
        """Those that do not."""
        return {name: value for name, value in self._weights.items() if not self.trains(name)}

    @cached_property
    def _weights(self):
        return self.read()


def new_reward(entry, seed: int) -> NewReward:
    """The reward that a train entry names, with the options of its section. Raises InputError."""
    check_name("reward to train", entry.get("reward", None), NEW)
    return call(f"reward {entry.reward}", NEW[entry.reward], {"seed": seed, **entry.get(entry.reward, {})})


def _scalar(seed, clip="", subject="", size="ViT-L/14", regions=(), train_towers=False):
    check_name("size of scalar", size, SCALAR_SIZES)
    files = weights_file(clip, size, "clip"), weights_file(subject, size, "iresnet")
    reward, read = new_scalar(*files, size, regions, seed)
    side = max(reward.config.vision.image_size, reward.config.side)

    def trains(name):
        return not name.endswith(STATISTICS) and (train_towers or name.partition(".")[0] not in TOWERS)

    def fitted(image):
        if regions and image.shape[0] != image.shape[1]:
            given = f"a picture of {image.shape[0]} × {image.shape[1]} pixels"
            rule = "it is trained on in a white square, where regions would be others than in the picture"
            raise InputError(given, rule, "give square pictures, or no regions")
        return fit_image(image, side)

    def save(folder, params):
        reward.save(folder / WEIGHTS, params)

    def load(folder):
        return load_scalar(folder / WEIGHTS)

    return NewReward(reward, reward.network.axes, trains, read, fitted, save, load)


def _aesthetic(seed, clip="", version=STORYBOOK):
    check_name("version of aesthetic to train", version, AESTHETIC_HEADS)
    clip = weights_file(clip, version, "clip")
    towers = load_clip(clip, STORYBOOK if version == STORYBOOK else "ViT-L/14")
    network, head = split(LinearHead(AESTHETIC_HEADS[version], rngs=nnx.Rngs(seed)))
    reward, side = Aesthetic(towers, version, network, head), towers.vision.image_size
    axes = under("clip", {"logit_scale": (), **under("vision", towers.vision_axes)}) | under("head", network.axes)

    def fitted(image):
        """The middle of the picture, which is what the reward looks at."""
        return np.asarray(ImageOps.fit(Image.fromarray(image), (side, side), Image.Resampling.BICUBIC))

    def save(folder, params):
        save_weights(folder / WEIGHTS, below("head", params), AESTHETIC_HEADS[version].names, jnp.float32)

    def load(folder):
        return load_aesthetic(clip, folder / WEIGHTS, version)

    return NewReward(reward, axes, lambda name: name.startswith("head."), lambda: reward.params, fitted, save, load)


NEW = {"scalar": _scalar, "aesthetic": _aesthetic}
