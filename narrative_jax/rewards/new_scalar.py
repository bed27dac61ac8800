"""A scalar reward while it is trained on preferences."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax import nnx

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.images import fit_image
from narrative_jax.core.options import File
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.clip import Clip
from narrative_jax.models.layers import STATISTICS
from narrative_jax.models.network import abstract, below, split, under
from narrative_jax.models.open_clip import load_clip_weights
from narrative_jax.models.scalar_reward import SCALAR_SIZES, SUBJECT_NAMES, TOWERS, ScalarReward
from narrative_jax.models.shipped import weights_file
from narrative_jax.models.tokenizer import TOKENIZER
from narrative_jax.rewards.base import WEIGHTS
from narrative_jax.rewards.regions import Box
from narrative_jax.rewards.scalar import Scalar
from narrative_jax.rewards.scalar_files import load_scalar, save_scalar, with_tokenizer


@dataclass(frozen=True)
class NewScalar:
    """Towers from files of CLIP's weights, tokenizer.json beside them, and of the subjects' tower; the rest at random.

    "" stands for the files that ship, of size "storybook". `train_towers` trains all, else towers stay as they are.
    See `TrainableReward`.
    """

    clip: File = ""
    subject: File = ""
    size: str = "ViT-L/14"
    regions: tuple[Box, ...] = ()
    train_towers: bool = False

    def __post_init__(self):
        check_name("size", self.size, SCALAR_SIZES)

    def untrained(self, seed: int) -> tuple[Scalar, Callable[..., Params]]:
        """Also raises InputError for regions that do not fit and an unreadable tokeniser."""
        clip, subject = weights_file(self.clip, self.size, "clip"), weights_file(self.subject, self.size, "iresnet")
        config, tokenizer = with_tokenizer(self.size, clip.with_name(TOKENIZER))

        def read(mesh):
            params = split(ScalarReward(config, rngs=nnx.Rngs(seed)))[1]
            shapes = abstract(lambda: Clip(config.text, config.vision, rngs=nnx.Rngs(0)))[1]
            towers = load_clip_weights(clip, shapes)
            del towers["logit_scale"]
            names = SUBJECT_NAMES[type(config.subject)]
            return params | towers | under("subject", load_weights(subject, below("subject", params), names))

        network, _ = abstract(lambda: ScalarReward(config, rngs=nnx.Rngs(0)))
        reward = Scalar(self.size, config, tokenizer, network, read, self.regions)
        return reward, reward.laid

    def trains(self, name: str) -> bool:
        """All but the towers, and with `train_towers` these too; statistics of batch norms never do."""
        return not name.endswith(STATISTICS) and (self.train_towers or name.partition(".")[0] not in TOWERS)

    def fitted(self, image: np.ndarray) -> np.ndarray:
        """In a white square, of which either tower sees all that it can. Raises InputError where regions would move."""
        if self.regions and image.shape[0] != image.shape[1]:
            given = f"a picture of {image.shape[0]} × {image.shape[1]} pixels"
            rule = "it is trained on in a white square, where regions would be others than in the picture"
            raise InputError(given, rule, "give square pictures, or no regions")
        config = SCALAR_SIZES[self.size]
        return fit_image(image, max(config.vision.image_size, config.side))

    def save(self, folder: Path, reward: Scalar, params: Params) -> None:
        """The weights, and what `save_scalar` writes beside them."""
        save_scalar(folder / WEIGHTS, reward, params)

    def load(self, folder: Path) -> Scalar:
        """What was saved says itself which one it is."""
        return load_scalar(folder / WEIGHTS)
