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

    @property
    def _plain(self):
        """Whether nothing is learned of words: none are written then, and no score is read behind any."""
        return not self.critique and self.without_critique == 1

    def loss(self, models, batch, key) -> Loss:
        """`batch`: first and second f32[b, h, w, 3], of each the critiques, Texts [b, k, m], and where that is said
        aloud what it shows, Texts [b, 1, n]; the scenes' context, and `better` f32[b, k]: 1 where the first picture
        is, -1 the second, 0 for a tie, NaN where nobody said.
        """
        reward, params = models.policy
        critic = reward.network.bind(params)
        pictures = jnp.concatenate([batch["first"], batch["second"]])
        twice, critiques = (
            jax.tree.map(lambda *parts: jnp.concatenate(parts), *both)
            for both in ((batch["context"],) * 2, (batch["first_critiques"], batch["second_critiques"]))
        )
        shown, prompts = reward.show(critic, reward.fit(pictures, twice), twice), reward.prompts
        asked = at_once = critic.ask(shown, prompts.questions)
        described, critiques = jnp.zeros(len(pictures)), Texts(*critiques)
        if prompts.room.aloud and not self._plain:
            opening = critic.ask(shown, prompts.opening)
            said = Texts(*(jnp.concatenate(x) for x in zip(batch["first_aloud"], batch["second_aloud"], strict=True)))
            answered = critic.answer(opening, said)
            described = token_cross_entropy(answered.logits, *said)[:, 0]
            asked = critic.ask(answered.cache, prompts.next_questions)
        found = critic.judge(asked, critiques, at_once)
        words = token_cross_entropy(found.logits, *critiques)
        said = ~jnp.isnan(batch["better"])
        better = jnp.where(said, batch["better"], 0)  # a NaN that is left out would come back in the gradient
        share = self.without_critique
        ranked = (1 - share) * _ranking(found.after, better) + share * _ranking(found.before, better)
        ranked = jnp.where(said, ranked, 0).sum(1) / jnp.maximum(said.sum(1), 1)
        per_picture = words.mean(1), described, _cut(critiques, prompts.tokenizer.end)
        critique, described, cut = (sum(jnp.split(each, 2)) / 2 for each in per_picture)
        right = {"with": found.after, "without": found.before}
        accuracies = {f"accuracy_{name}_critique": _accuracy(scores, better) for name, scores in right.items()}
        loss = self.critique * (critique + described) + self.gamma * ranked
        return summed(loss, critique=critique, described=described, ranking=ranked, cut=cut, **accuracies)


@dataclass(frozen=True)
class Describing(Algorithm):
    """What pictures and portraits show, and how they differ, is said aloud, word by word: a backbone that sees."""

    batch: ClassVar[str] = "descriptions"

    def loss(self, models, batch, key) -> Loss:
        """`batch`: pictures f32[b, h, w, 3], the scenes' context, and `aloud`, Texts [b, 1, m]."""
        reward, params = models.policy
        critic, context, prompts = reward.network.bind(params), batch["context"], reward.prompts
        shown = reward.show(critic, reward.fit(batch["pictures"], context), context)
        text = Texts(*batch["aloud"])
        logits = critic.answer(critic.ask(shown, prompts.opening), text).logits
        right = (logits.argmax(-1) == text.tokens) & text.mask
        right = right.sum((1, 2)) / text.mask.sum((1, 2))
        return summed(token_cross_entropy(logits, *text)[:, 0], right=right, cut=_cut(text, prompts.tokenizer.end))


@dataclass(frozen=True)
class Picturing(Describing):
    """The beginning of that is said of pictures alone: nobody can repeat portraits or prompt who was shown none."""

    batch: ClassVar[str] = "pictures"


def _cut(texts, end):
    """Which share of each picture's texts [b, k, m] fills its room without coming to its end there, f32[b]."""
    return (texts.mask.all(-1) & (texts.tokens[..., -1] != end)).mean(-1)


def _ranking(scores, better):
    """f32[b, k] of scores f32[2 · b, k], the first pictures' and then the second ones'."""
    first, second = jnp.split(scores, 2)
    side = jnp.where(better == 0, 1, better)
    return bradley_terry(side * first, side * second, better == 0)


def _accuracy(scores, better):
    """How many of an example's decided aspects are told right, as a share, f32[b]."""
    first, second = jnp.split(scores, 2)
    decided = jnp.abs(better) == 1
    right = decided & (jnp.sign(first - second) == better)
    return right.sum(1) / jnp.maximum(decided.sum(1), 1)
