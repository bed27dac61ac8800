"""Training of a network that tells subjects from their backgrounds, by masks of them."""

from dataclasses import dataclass
from typing import ClassVar

from narrative_jax.algorithms.base import Algorithm, Loss, summed
from narrative_jax.losses.segmentation import levels_cross_entropy, overlap


@dataclass(frozen=True)
class Segmentation(Algorithm):
    """Each of the network's levels says for each pixel whether it shows the subject (Qin et al. 2022, IS-Net)."""

    batch: ClassVar[str] = "masks"

    def loss(self, models, batch, key) -> Loss:
        """`batch`: image f32[b, h, w, 3] in [-1, 1], mask bool[b, h, w]."""
        logits = models.policy.model.bind(models.policy.params)(batch["image"])
        return summed(levels_cross_entropy(logits, batch["mask"]), overlap=overlap(logits[0], batch["mask"]))
