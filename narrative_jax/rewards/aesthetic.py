"""How much people like the look of a picture, whatever it shows: LAION's aesthetic heads on CLIP embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax

from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.models.network import Network, below, under
from narrative_jax.models.preprocessing import shortest_side_crop
from narrative_jax.models.reward_heads import load_aesthetic_head
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.rewards.clip_scores import ClipPair, load_clip


@dataclass(frozen=True)
class Aesthetic:
    """LAION's score, about 1 to 10, of unit embeddings of CLIP ViT-L/14; `version` is the head's.

    That of Storybook's head has a scale of its own.
    """

    differentiable: ClassVar[bool] = True
    needs_facts: ClassVar[bool] = False

    clip: ClipPair
    version: str
    head: Network
    head_params: Params

    @property
    def name(self) -> str:
        """Which head's score."""
        return f"aesthetic_{self.version}"

    @property
    def aspects(self) -> tuple[str, ...]:
        """One, the name."""
        return (self.name,)

    @property
    def params(self) -> Params:
        """The image tower's and the head's."""
        return under("clip", self.clip.params) | under("head", self.head_params)

    @property
    def least_size(self) -> tuple[int, int]:
        """A patch of the image tower."""
        return self.clip.least_size

    def encode(self, scenes: Sequence[Scene]) -> tuple:
        """Nothing: the scene does not matter."""
        return ()

    def score(self, params: Params, images: jax.Array, context: tuple) -> jax.Array:
        """f32[b, 1]; see `PureReward`."""
        size = self.clip.vision.image_size
        embeddings = self.clip.embed_images(below("clip", params), shortest_side_crop(images, size, size))
        return self.head.bind(below("head", params))(embeddings)[:, None]


def load_aesthetic(clip: str | Path, head: str | Path, version: str) -> Aesthetic:
    """The published score from a file of CLIP ViT-L/14 (see `load_clip`) and that of head "v1" or "v2".

    Version "storybook" is on Storybook's CLIP. Raises InputError as `load_clip` and `load_aesthetic_head` do.
    """
    clip = load_clip(clip, STORYBOOK if version == STORYBOOK else "ViT-L/14")
    return Aesthetic(clip, version, *load_aesthetic_head(head, version))
