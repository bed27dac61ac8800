"""Contrastive training of encoders on pairs: captions and pictures (CLIP, Radford et al. 2021), or two pictures."""

from dataclasses import dataclass
from typing import ClassVar

from narrative_jax.algorithms.base import Algorithm, Loss, summed
from narrative_jax.losses.contrastive import clip_contrastive


@dataclass(frozen=True)
class Contrastive(Algorithm):
    """Each first half of a pair finds its second among those of the global batch, and each second its first."""

    batch: ClassVar[str] = "matches"
    whole_batch: ClassVar[bool] = True

    def loss(self, models, batch, key) -> Loss:
        """`batch`: first and second, as the network takes them, index i32[b]."""
        network = models.policy.model.network.bind(models.policy.params)
        first, second = network(batch["first"], batch["second"])
        loss = clip_contrastive(first, second, network.logit_scale)
        correct = (first @ second.T).argmax(1) == batch["index"]
        return summed(loss, accuracy=correct)
