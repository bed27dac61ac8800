"""Training of rewards that write a critique before they score: to see, and then to criticise."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from narrative_jax.algorithms.base import Algorithm, Loss, summed
from narrative_jax.core.errors import InputError
from narrative_jax.losses.language import token_cross_entropy
from narrative_jax.losses.ranking import bradley_terry
from narrative_jax.models.critic import Texts


@dataclass(frozen=True)
class CritiqueModelling(Algorithm):
    """λ L_critique + γ L_reward: annotators' critiques are learned word by word, and of two pictures the better one's
    scores higher, read behind its critique (NIReward, with λ = 1).

    Nothing sees what comes after it, so the score without a critique comes of the same pass: `without_critique` is the
    share of L_reward that is of that, without which such a score means nothing. With λ, `critique`, 0 and all of
    L_reward without one, it is a scalar reward at equal compute.
    """

    batch: ClassVar[str] = "annotations"

    critique: float = 1.0
    gamma: float = 1.0
    without_critique: float = 0.3

    def __post_init__(self):
        for name in ("critique", "gamma"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)!r}", "it weighs a loss", "give 0 or more")
        if not self.critique + self.gamma:
            raise InputError("critique 0 and gamma 0", "nothing is left to learn", "weigh one of both")
        if not 0 <= self.without_critique <= 1:
            raise InputError(f"without_critique {self.without_critique!r}", "it is a share", "give one from 0 to 1")

    def loss(self, models, batch, key) -> Loss:
        """`batch`: first and second f32[b, h, w, 3], of each the critiques, Texts [b, k, m], the scenes' context, and
        `better` f32[b, k]: 1 where the first picture is, -1 the second, 0 for a tie, NaN where nobody said.
        """
        reward, params = models.policy
        critic = reward.network.bind(params)
        pictures = jnp.concatenate([batch["first"], batch["second"]])
        twice, critiques = (
            jax.tree.map(lambda *parts: jnp.concatenate(parts), *both)
            for both in ((batch["context"],) * 2, (batch["first_critiques"], batch["second_critiques"]))
        )
        found = critic.judge(reward.ask(critic, reward.fit(pictures, twice), twice), Texts(*critiques))
        words = token_cross_entropy(found.logits, *critiques)
        said = ~jnp.isnan(batch["better"])
        better = jnp.where(said, batch["better"], 0)  # a NaN that is left out would come back in the gradient
        share = self.without_critique
        ranked = (1 - share) * _ranking(found.after, better) + share * _ranking(found.before, better)
        ranked = jnp.where(said, ranked, 0).sum(1) / jnp.maximum(said.sum(1), 1)
        critique = sum(jnp.split(words.mean(1), 2)) / 2
        right = {"with": found.after, "without": found.before}
        accuracies = {f"accuracy_{name}_critique": _accuracy(scores, better) for name, scores in right.items()}
        loss = self.critique * critique + self.gamma * ranked
        metrics = {"critique": critique.sum(), "ranking": ranked.sum(), **accuracies}
        return Loss(loss.sum(), jnp.float32(len(loss)), metrics)


@dataclass(frozen=True)
class Describing(Algorithm):
    """Pictures are described, and compared with the portraits, word by word: a backbone that sees."""

    batch: ClassVar[str] = "descriptions"

    def loss(self, models, batch, key) -> Loss:
        """`batch`: pictures f32[b, h, w, 3], the scenes' context, and `answers`, Texts [b, 2, m]."""
        reward, params = models.policy
        critic, context, answers = reward.network.bind(params), batch["context"], Texts(*batch["answers"])
        fitted = reward.fit(batch["pictures"], context)
        asked = reward.ask(critic, fitted, context, reward.prompts.first_questions)
        found = critic.judge(asked, answers)
        words = token_cross_entropy(found.logits, *answers)
        told = (found.logits.argmax(-1) == answers.tokens) & answers.mask
        right = told.sum((1, 2)) / answers.mask.sum((1, 2))
        return summed(words.mean(1), description=words[:, 0], comparison=words[:, 1], tokens_right=right)


def _ranking(scores, better):
    """f32[b, k] of scores f32[2 · b, k], the first pictures' and then the second ones'."""
    first, second = jnp.split(scores, 2)
    side = jnp.where(better == 0, 1, better)
    return bradley_terry(side * first, side * second, better == 0)


def _accuracy(scores, better):
    """The sum over examples of how many of an example's decided aspects are told right, as a share."""
    first, second = jnp.split(scores, 2)
    decided = jnp.abs(better) == 1
    right = decided & (jnp.sign(first - second) == better)
    return (right.sum(1) / jnp.maximum(decided.sum(1), 1)).sum()
