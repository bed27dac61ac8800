"""NIReward while it is trained."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.images import fit_image
from narrative_jax.core.options import File
from narrative_jax.core.types import Params
from narrative_jax.models.critic import random_critic, random_head, shapes_over, structure
from narrative_jax.models.network import below, under
from narrative_jax.models.shipped import RANDOM, STORYBOOK
from narrative_jax.models.tokenizer import TOKENIZER
from narrative_jax.models.vlm_files import load_vlm_weights
from narrative_jax.rewards.base import WEIGHTS
from narrative_jax.rewards.nireward import NIReward
from narrative_jax.rewards.nireward_files import (
    ABOUT,
    BACKBONE,
    instructions_of,
    load_nireward,
    prompts_by,
    read_nireward,
    save_nireward,
)
from narrative_jax.rewards.nireward_sizes import NIREWARD_SIZES


@dataclass(frozen=True)
class NewNIReward:
    """A `size` with a `backbone`, a folder of a Qwen2-VL with its tokenizer.json, or what a training of NIReward left;
    the head is new.

    "" is the one that ships, "random" begins at random with its tokeniser. `instructions` ask about an aspect each, all
    or some of those that are annotated; none are those of the backbone's training. See `TrainableReward`.
    """

    backbone: File = field(default_factory=lambda: File(""))
    size: str = STORYBOOK
    instructions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        check_name("size", self.size, NIREWARD_SIZES)

    def untrained(self, seed: int) -> tuple[NIReward, Callable[..., Params]]:
        """Also raises InputError for an unreadable tokeniser, and one with more tokens than the network has words."""
        if self.backbone in ("", RANDOM) and self.size != STORYBOOK:
            rule = f"a published Qwen2-VL-{self.size} is where it begins"
            raise InputError(f"backbone {str(self.backbone)!r}", rule, "give its folder, weights and tokenizer.json")
        config, room = NIREWARD_SIZES[self.size]
        folder = BACKBONE if self.backbone in ("", RANDOM) else Path(self.backbone)
        network, _ = structure(config)
        prompts = prompts_by(folder / TOKENIZER, config, room, self.instructions or instructions_of(folder))

        def read(mesh):
            if self.backbone == RANDOM:
                return random_critic(config, seed)
            if (folder / ABOUT).is_file():
                known = read_nireward(folder / WEIGHTS, config, mesh)
            else:
                known = under("vlm", load_vlm_weights(folder, below("vlm", shapes_over(config, mesh)), config.compute))
            head = random_head(config, seed)
            return known | {name: value.astype(config.compute) for name, value in head.items()}

        reward = NIReward(self.size, prompts, network, read)
        return reward, reward.laid

    def abstract(self, kept: str = "") -> tuple[NIReward, Params]:
        """The reward and the shapes of its weights, for a step that is planned, without its files: questions are as
        long as the tokeniser that ships has them. `kept` stands for what the size says of blocks.
        """
        config, room = NIREWARD_SIZES[self.size]
        network, _ = structure(config, kept)
        prompts = prompts_by(BACKBONE / TOKENIZER, config, room, self.instructions or instructions_of(BACKBONE))
        shapes = shapes_over(config)
        return NIReward(self.size, prompts, network, lambda mesh: shapes), shapes

    def trains(self, name: str) -> bool:
        """All weights."""
        return True

    def fitted(self, image: np.ndarray) -> np.ndarray:
        """In a white square of the size's side."""
        return fit_image(image, NIREWARD_SIZES[self.size][1].side)

    def save(self, folder: Path, reward: NIReward, params: Params) -> None:
        """The weights, and what `save_nireward` writes beside them."""
        save_nireward(folder / WEIGHTS, reward, params)

    def load(self, folder: Path) -> NIReward:
        """What was saved says itself which one it is."""
        return load_nireward(folder / WEIGHTS)
