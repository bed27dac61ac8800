"""What the oracle sees in pictures, to be learned by what is to see."""

from collections.abc import Sequence

import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float
from narrative_jax.core.records import Scene
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.rewards.oracle import facts_of, judge_images
from narrative_jax.storybook.descriptions import aloud, pictured, repeated
from narrative_jax.storybook.parse import parse
from narrative_jax.storybook.sets import SIZE
from narrative_jax.storybook.squares import squares, squares_of_portrait
from narrative_jax.storybook.world import WORLD, identity_codes


def describe_images(images: np.ndarray, scenes: Sequence[Scene]) -> list[str]:
    """What each picture u8[b, 40, 40, 3] and its scene's portraits show, see `storybook.descriptions.aloud`.

    Raises InputError for a scene without facts.
    """
    findings = judge_images(images, scenes).findings
    return [aloud(facts_of(scene), seen) for scene, seen in zip(scenes, findings, strict=True)]


def describe_pictures(images: np.ndarray, scenes: Sequence[Scene]) -> list[str]:
    """The beginning of that, in which neither prompt nor portraits matter. Raises InputError."""
    return [pictured(seen) for seen in judge_images(images, scenes).findings]


def describe_unseen(scenes: Sequence[Scene]) -> list[str]:
    """What `describe_images` gives, by who has not looked, see `storybook.descriptions.repeated`. Raises InputError."""
    return [repeated(facts_of(scene)) for scene in scenes]


def check_squares(reward: str, shown: int, side: int) -> None:
    """Raise InputError unless a reward that sees pictures of `shown` pixels a side has a token for squares of them."""
    if shown != SIZE or SIZE % side:
        rule = f"what squares show is told of Storybook's pictures, {SIZE} pixels a side, in equal parts"
        raise InputError(f"{reward}: tokens of {side} pixels of {shown}", rule, f"take its size {STORYBOOK!r}")


def see_squares(images: np.ndarray, side: int) -> np.ndarray:
    """What squares of pictures u8[b, 40, 40, 3] show, whatever was asked for, see `storybook.squares`.

    Raises InputError.
    """
    return squares(parse(to_float(images), WORLD.max_characters + 1).drawing, side)


def see_portrait(scene: Scene, side: int) -> np.ndarray:
    """The same of the first portrait of a scene's first subject. Raises InputError for a scene without facts."""
    identity = identity_codes(facts_of(scene).characters[0].attributes)
    return squares_of_portrait(identity, scene.subjects[0].masks[0], side)
