"""How much people like the look of a picture, whatever it shows: LAION's aesthetic heads on CLIP embeddings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from PIL import Image, ImageOps

from narrative_jax.core.errors import check_name
from narrative_jax.core.options import File
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import save_weights
from narrative_jax.models.clip import CLIP_SIZES
from narrative_jax.models.network import Network, below, split, under
from narrative_jax.models.preprocessing import shortest_side_crop
from narrative_jax.models.reward_heads import AESTHETIC_HEADS, LinearHead, load_aesthetic_head
from narrative_jax.models.shipped import STORYBOOK, weights_file
from narrative_jax.rewards.base import WEIGHTS, SingleAspect
from narrative_jax.rewards.clip_scores import ClipPair, load_clip


@dataclass(frozen=True)
class Aesthetic(SingleAspect):
    """LAION's score, about 1 to 10, of unit embeddings of CLIP ViT-L/14; `version` is the head's.

    That of Storybook's head has a scale of its own. `head_params` may be shapes alone, to be planned with.
    """

    clip: ClipPair
    version: str
    head: Network
    head_params: Params

    @property
    def name(self) -> str:
        """Which head's score."""
        return f"aesthetic_{self.version}"

    @property
    def params(self) -> Params:
        """The image tower's and the head's."""
        return under("clip", self.clip.params) | under("head", self.head_params)

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """See `PureReward`."""
        return under("clip", self.clip.shapes) | under("head", jax.eval_shape(lambda head: head, self.head_params))

    @property
    def axes(self) -> dict[str, tuple]:
        """See `PureReward`."""
        return under("clip", self.clip.axes) | under("head", self.head.axes)

    @property
    def least_size(self) -> tuple[int, int]:
        """A patch of the image tower."""
        return self.clip.least_size

    def encode(self, scenes: Sequence[Scene]) -> tuple:
        """Nothing: the scene does not matter."""
        return ()

    def blank(self, rows: int) -> tuple:
        """See `PureReward`."""
        return ()

    def fit(self, images: jax.Array, context: tuple) -> jax.Array:
        """The picture as CLIP's published code hands it to the image tower."""
        size = self.clip.vision.image_size
        return shortest_side_crop(images, size, size)

    def judge(self, params: Params, fitted: jax.Array, context: tuple, critiques: Any = None) -> jax.Array:
        """f32[b, 1]; see `PureReward`."""
        embeddings = self.clip.embed_images(below("clip", params), fitted)
        return self.head.bind(below("head", params))(embeddings)[:, None]


@dataclass(frozen=True)
class AestheticOptions:
    """Files of the weights of CLIP (see `load_clip`) and of the head, and which head it is: "v1" or "v2".

    Version "storybook" is on Storybook's CLIP; "" stands for the files that ship with it.
    """

    clip: File
    head: File
    version: str = "v2"

    def build(self) -> Aesthetic:
        """The published score. Raises InputError as `load_clip` and `load_aesthetic_head` do."""
        return self._made(self.clip, lambda: weights_file(self.head, self.version, "aesthetic"))

    def abstract(self) -> Aesthetic:
        """See `PureReward`. Raises InputError for an unknown version."""
        return self._made(None, lambda: None)

    def _made(self, clip, head):
        check_name("version of aesthetic", self.version, AESTHETIC_HEADS)
        pair = load_clip(clip, _clip_size(self.version))
        return Aesthetic(pair, self.version, *load_aesthetic_head(head(), self.version))


@dataclass(frozen=True)
class NewAesthetic:
    """A head to be trained on a CLIP that stays as it is; see `AestheticOptions` and `TrainableReward`."""

    clip: File = ""
    version: str = STORYBOOK

    def __post_init__(self):
        check_name("version", self.version, AESTHETIC_HEADS)

    def untrained(self, seed: int) -> tuple[Aesthetic, Callable[..., Params]]:
        """With a random head."""
        clip = load_clip(self.clip, _clip_size(self.version))
        head = split(LinearHead(AESTHETIC_HEADS[self.version], rngs=nnx.Rngs(seed)))
        reward = Aesthetic(clip, self.version, *head)
        return reward, reward.laid

    def trains(self, name: str) -> bool:
        """The head's."""
        return name.startswith("head.")

    def fitted(self, image: np.ndarray) -> np.ndarray:
        """The middle of the picture, which is what the reward looks at."""
        side = CLIP_SIZES[_clip_size(self.version)][1].image_size
        return np.asarray(ImageOps.fit(Image.fromarray(image), (side, side), Image.Resampling.BICUBIC))

    def save(self, folder: Path, reward: Aesthetic, params: Params) -> None:
        """The head's weights, as LAION publishes them."""
        save_weights(folder / WEIGHTS, below("head", params), AESTHETIC_HEADS[self.version].names, np.float32)

    def load(self, folder: Path) -> Aesthetic:
        """The head that was saved, on its CLIP."""
        return AestheticOptions(self.clip, File(folder / WEIGHTS), self.version).build()


def _clip_size(version):
    return STORYBOOK if version == STORYBOOK else "ViT-L/14"
