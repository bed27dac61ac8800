"""A vision-language model that criticises: its head of words writes, a second head gives what was written a number."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from narrative_jax.core.mesh import laid_shapes
from narrative_jax.core.types import Params
from narrative_jax.models.layers import Linear
from narrative_jax.models.network import Network, abstract, below, split, under
from narrative_jax.models.vlm import Cache, Vlm, VlmConfig, VlmInputs, last_of
from narrative_jax.models.vlm_writing import Written, write


class Texts(NamedTuple):
    """Tokens i32[..., n], and which of them are no padding, bool[..., n]."""

    tokens: jax.Array
    mask: jax.Array


class Asked(NamedTuple):
    """Each row's questions, a branch each: the hidden states f32[b, k, width] that they end in, and what was read."""

    last: jax.Array
    cache: Cache


class Answered(NamedTuple):
    """Answers to questions: the hidden states f32[b, k, width] that they end in, what is expected in the places of
    their tokens, f32[b, k, m, vocabulary], and what was read with them.
    """

    last: jax.Array
    logits: jax.Array
    cache: Cache


class Judged(NamedTuple):
    """Scores f32[b, k] before any critique and after it, and what is expected in the places of its tokens,
    f32[b, k, m, vocabulary].
    """

    before: jax.Array
    after: jax.Array
    logits: jax.Array


@cache
def structure(config: VlmConfig, kept: str = "") -> tuple[Network, Mapping[str, jax.ShapeDtypeStruct]]:
    """The network and the shapes of its weights: many entries of a run ask, and tracing takes a moment.

    `kept` stands for what the config says that blocks keep for the gradient.
    """
    config = replace(config, kept=kept) if kept else config
    return abstract(lambda: Critic(config, rngs=nnx.Rngs(0)))


def shapes_over(config: VlmConfig, mesh: Mesh | None = None) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Shapes of its weights as they lie in memory where they do not train: in the type that is computed in, each over
    the mesh where one is given.
    """
    network, shapes = structure(config)
    typed = {name: jax.ShapeDtypeStruct(shape.shape, config.compute) for name, shape in shapes.items()}
    return laid_shapes(typed, network.axes, mesh)


def random_critic(config: VlmConfig, seed: int) -> Params:
    """Weights to begin with."""
    return split(Critic(config, rngs=nnx.Rngs(seed)))[1]


def random_head(config: VlmConfig, seed: int) -> Params:
    """Those of the head that scores, as `random_critic` has them; compiled, so that nothing is made of the others."""
    return jax.jit(lambda: under("reward", below("reward", random_critic(config, seed))))()


class Critic(nnx.Module):
    """NIReward's network: pictures and prompt are read once, then each question, and then the answer to each.

    A score is read at the last token that was said. Nothing sees what comes after it, so one pass gives the score of
    the critique and that without.
    """

    def __init__(self, config: VlmConfig, *, rngs: nnx.Rngs):
        self.vlm = Vlm(config, rngs=rngs)
        # Differences of scores alone mean anything: a bias would not be learned.
        self.reward = Linear(config.width, 1, axes=("embed", None), bias=False, rngs=rngs)

    def show(self, inputs: VlmInputs) -> Cache:
        """Read what is shown."""
        return self.vlm.read(inputs)[1]

    def ask(self, read: Cache, questions: Texts) -> Asked:
        """Read each of the questions [k, n] to what was read, which has one branch: each begins one."""
        count, n = questions.tokens.shape
        tokens, mask = (jnp.broadcast_to(part, (len(read.seen), count, n)) for part in questions)
        hidden, cache = self.vlm.read_on(tokens, mask, read.branched(count))
        return Asked(last_of(hidden, mask), cache)

    def answer(self, asked: Asked, answers: Texts) -> Answered:
        """What comes of answers [b, k, m] to questions."""
        hidden, found, position = self.vlm.step(*answers, asked.cache)
        before_each = jnp.concatenate([asked.last[:, :, None], hidden[:, :, :-1]], axis=2)
        cache = asked.cache.longer(*found, answers.mask, position)
        return Answered(last_of(hidden, answers.mask), self.vlm.logits(before_each), cache)

    def judge(self, asked: Asked, critiques: Texts, at_once: Asked) -> Judged:
        """Scores before and after critiques [b, k, m], and what is expected in their tokens' places.

        Before any, and of an empty one, a score is read where the same questions were asked `at_once`.
        """
        found = self.answer(asked, critiques)
        ends = jnp.where(critiques.mask.any(-1, keepdims=True), found.last, at_once.last)
        return Judged(self.score(at_once.last), self.score(ends), found.logits)

    def score(self, hidden: jax.Array) -> jax.Array:
        """Scores f32[...] of hidden states f32[..., width]."""
        return jnp.float32(self.reward(hidden))[..., 0]

    def write(self, asked: Asked, *, length: int, end: int, pad: int, **how) -> Written:
        """A critique [b, k, length] to each question, `end` the last of its tokens; see `vlm_writing.write`."""
        return write(self.vlm, asked.last, asked.cache, length=length, ends=(end,), pad=pad, **how)
