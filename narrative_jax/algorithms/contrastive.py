"""Contrastive training of a text and an image encoder (CLIP, Radford et al. 2021)."""

from dataclasses import dataclass
from typing import ClassVar

from narrative_jax.algorithms.base import Algorithm, Loss, summed
from narrative_jax.losses.contrastive import clip_contrastive


@dataclass(frozen=True)
class Contrastive(Algorithm):
    """Each caption finds its picture among those of the global batch, and each picture its caption."""

    trains_on: ClassVar[str] = "captions"
    whole_batch: ClassVar[bool] = True

    def loss(self, models, batch, key) -> Loss:
        """`batch`: tokens i32[b, t], images f32[b, h, w, 3], index i32[b]."""
        clip = models.policy.model.network.bind(models.policy.params)
        text, image = clip(batch["tokens"], batch["images"])
        loss = clip_contrastive(text, image, clip.logit_scale)
        correct = (text @ image.T).argmax(1) == batch["index"]
        return summed(loss, accuracy=correct)
