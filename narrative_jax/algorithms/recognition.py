"""Training of a vision tower to see: each token of a picture tells what its square shows."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.algorithms.base import Algorithm, Loss, summed

_ANSWERS = 8  # that a question has at most
# What is known already weighs little (Lin et al. 2017, "Focal loss"): most limbs are there, and whoever says so of all
# has little else to lose.
_FOCUS = 2.0
_SCALE = 30.0  # of logits: a token of length 1 has to answer all questions at once


@dataclass(frozen=True)
class Recognition(Algorithm):
    """Each token answers, by itself, all questions about its square of a picture.

    Answers are read in fixed directions at right angles, which serve as well as learned ones (Hoffer et al. 2018, "Fix
    your classifier"): there are no weights that would be left over.
    """

    batch: ClassVar[str] = "squares"

    def loss(self, models, batch, key) -> Loss:
        """`batch`: pictures f32[b, h, w, 3] and `squares` i32[b, tokens, questions]; below 0 nothing is asked."""
        reward, params = models.policy
        answers, asked = batch["squares"], batch["squares"] >= 0
        logits = told(reward.see(reward.network.bind(params), batch["pictures"]), answers.shape[-1])
        likely = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(answers, 0)[..., None], axis=-1)[..., 0]
        focused = (1 - jnp.exp(likely)) ** _FOCUS * likely
        return summed(-_mean(focused, asked), right=_mean(logits.argmax(-1) == answers, asked))


def told(tokens: jax.Array, questions: int) -> jax.Array:
    """What tokens f32[..., width] answer: logits f32[..., questions, answers]."""
    tokens = jnp.float32(tokens)
    tokens /= jnp.linalg.norm(tokens, axis=-1, keepdims=True) + 1e-6
    logits = _SCALE * tokens @ _directions(tokens.shape[-1], questions)
    return logits.reshape(*tokens.shape[:-1], questions, _ANSWERS)


def _mean(values, asked):
    """Over the squares in which a question is asked, and then over the questions that are, f32[b]."""
    count = asked.sum(1)
    of_questions = jnp.where(asked, values, 0).sum(1) / jnp.maximum(count, 1)
    return of_questions.sum(1) / jnp.maximum((count > 0).sum(1), 1)


def _directions(width, questions):
    """f32[width, questions · answers], of which there are no more than `width`; always the same."""
    random = np.random.default_rng(0).standard_normal((width, questions * _ANSWERS))
    return np.float32(np.linalg.qr(random)[0])
