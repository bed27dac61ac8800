"""A reward that writes critiques and scores on them, and the algorithm that trains an adapter of its own on it."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.algorithms.base import Algorithm, summed
from narrative_jax.core.images import fit_image
from narrative_jax.losses.ranking import bradley_terry
from narrative_jax.models.layers import Linear
from narrative_jax.models.lora import with_adapter
from narrative_jax.models.network import Network, below, split, under
from narrative_jax.rewards.base import FitsAndJudges

LENGTH, WORDS = 3, 8  # tokens of a critique, and how many there are


class Reader(nnx.Module):
    """Looks at mean colours; `write` says what it sees, `judge` scores that beside the colours."""

    def __init__(self, rngs):
        self.write = Linear(3, LENGTH * WORDS, axes=(None, "embed"), rngs=rngs)
        self.judge = Linear(3 + LENGTH * WORDS, 1, axes=("embed", None), rngs=rngs)

    def words(self, images):
        return self.write(images.mean((1, 2))).reshape(-1, LENGTH, WORDS)

    def __call__(self, images, critiques):
        said = jax.nn.one_hot(critiques, WORDS).reshape(len(images), -1)
        return self.judge(jnp.concatenate([images.mean((1, 2)), said], 1))


class Letters:
    """Its language: a letter for each token."""

    def words(self, critiques):
        return [["".join(chr(ord("a") + token) for token in row)] for row in np.asarray(critiques)]


@dataclass(frozen=True)
class Critic(FitsAndJudges):
    name: ClassVar[str] = "critic"
    aspects: ClassVar[tuple] = ("critic",)
    differentiable: ClassVar[bool] = True
    needs_facts: ClassVar[bool] = False
    writes: ClassVar[bool] = True
    least_size: ClassVar[tuple] = (1, 1)
    prompts: ClassVar[Letters] = Letters()
    network: Network
    params: Any

    @property
    def axes(self):
        return under("reader", self.network.axes)

    def encode(self, scenes):
        return np.zeros((len(scenes), 0), np.float32)

    def criticise(self, params, fitted, context, keys=None):
        words = self._bound(params).words(fitted)
        critiques = words.argmax(-1) if keys is None else jax.random.categorical(keys, words)
        return critiques, self.judge(params, fitted, context, critiques)

    def fit(self, images, context):
        return images

    def judge(self, params, fitted, context, critiques=None):
        if critiques is None:
            return self.criticise(params, fitted, context)[1]
        return self._bound(params)(fitted, critiques)

    def with_adapter(self, params, name, **adapter):
        network, weights = with_adapter(self.network, below("reader", params), name, **adapter)
        weights = params | under("reader", weights)
        return replace(self, network=network, params=weights), weights

    def _bound(self, params):
        return self.network.bind(below("reader", params))


@dataclass(frozen=True)
class NewCritic:
    """See `rewards.base.TrainableReward`."""

    side: int = 40

    def untrained(self, seed):
        network, params = split(Reader(nnx.Rngs(seed)))
        reward = Critic(network, under("reader", params))
        return reward, reward.laid

    def trains(self, name):
        return True

    def fitted(self, image):
        return fit_image(image, self.side)


@dataclass(frozen=True)
class CritiqueThenScore(Algorithm):
    """Preferences by scores that read critiques, which the policy writes itself."""

    batch: ClassVar[str] = "preferences"

    def loss(self, models, batch, key):
        reward, params = models.policy
        scores = []
        for side in ("chosen", "rejected"):
            images = batch[side]
            scores.append(reward.criticise(params, images, batch["context"], key)[1][:, 0])
        return summed(bradley_terry(*scores, batch["tie"]), accuracy=scores[0] > scores[1])
