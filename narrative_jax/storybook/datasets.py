"""Scenes of the world as records, and the training sets drawn from it.

The raw set has the flaws that published methods inherit from their data. Their rates are fixed here, by the
complaints of the papers, and are never tuned to results.
"""

from collections.abc import Sequence

import numpy as np

from narrative_jax.core.errors import check_count, check_name, check_share
from narrative_jax.core.records import Example, Scene, Subject
from narrative_jax.storybook.flaws import change, spoil, worn
from narrative_jax.storybook.render import Drawing, render, render_portraits, silhouette, stage
from narrative_jax.storybook.sets import SIZE
from narrative_jax.storybook.squares import squares
from narrative_jax.storybook.world import (
    SPLITS,
    WORLD,
    Facts,
    World,
    caption,
    identity_codes,
    scene_rng,
)

TEST_SCENES = 256  # `scenes("test", range(TEST_SCENES))` is the fixed test set

BUSY_PORTRAITS = 0.5  # of the portraits stand before a busy background
KINDS = ("raw", "refined", "true", "worn", "changed")


def scenes(
    split: str, indices: Sequence[int], seed: int = 0, busy_portraits: float = BUSY_PORTRAITS, world: World = WORLD
) -> list[Scene]:
    """Scenes with caption, portraits (one a character) and facts. Raises InputError."""
    check_share("busy_portraits", busy_portraits)
    return [_scene(split, seed, index, busy_portraits, world) for index in indices]


def drawings(split: str, indices: Sequence[int], seed: int = 0, world: World = WORLD) -> tuple[list[Facts], Drawing]:
    """The facts of the same scenes, and a true picture of each, with sub-pixel places of its own. Raises InputError."""
    facts = [world.facts(split, seed, index) for index in indices]
    rngs = [scene_rng(split, seed, index, "places") for index in indices]
    return facts, stage(facts, rngs, world.max_characters)


def _scene(split, seed, index, busy_portraits, world):
    facts = world.facts(split, seed, index)
    rng = scene_rng(split, seed, index, "portraits")
    identities = np.stack([identity_codes(c.attributes) for c in facts.characters])
    busy = rng.random(len(identities)) < busy_portraits
    portraits, masks = render_portraits(identities, busy, rng)
    subjects = tuple(
        Subject(character.name, "character", portrait[None], mask[None])
        for character, portrait, mask in zip(facts.characters, portraits, masks, strict=True)
    )
    prompt = caption(facts, place_first=bool(rng.random() < 0.5))
    return Scene(f"{split}-{seed}-{index:06d}", prompt, subjects, split, facts)


class TrainingSet:
    """Examples of a split with random access: `kind` "raw" has the papers' flaws, "refined" has none.

    "true" is raw in its portraits, half of them before busy backgrounds, and refined in its pictures. "worn" is raw,
    and half of its pictures are noisy or blurred besides. "changed" is true, but much of what pictures show is drawn
    anew, so that captions and portraits often do not tell what it is, and half of them are noisy or blurred.

    Example i depends on (kind, split, seed, i) only. Raises InputError.
    """

    def __init__(self, kind: str, size: int, seed: int = 0, world: World = WORLD, split: str = "train"):
        check_name("training set", kind, KINDS)
        check_name("split", split, SPLITS)
        check_count("size", size, minimum=1)
        check_count("seed", seed)
        self.kind, self.size, self.seed, self.world, self.split = kind, size, seed, world, split

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        return self.batch([index])[0]

    def batch(self, indices: Sequence[int]) -> list[Example]:
        """Several examples at once, which costs less an example."""
        indices = [self._check(index) for index in indices]
        asked = scenes(self.split, indices, self.seed, 0.0 if self.kind == "refined" else BUSY_PORTRAITS, self.world)
        pictures = render(self._drawing(indices))
        if self.kind in ("worn", "changed"):
            for row, index in enumerate(indices):
                pictures[row] = worn(pictures[row], scene_rng(self.split, self.seed, index, "wear"))
        targets = np.round((pictures + 1) * 127.5).astype(np.uint8)
        return [Example(scene, target) for scene, target in zip(asked, targets, strict=True)]

    def silhouettes(self, indices: Sequence[int]) -> np.ndarray:
        """Where the targets show somebody, bool[b, h, w]."""
        drawing = self._drawing([self._check(index) for index in indices])
        shares = [silhouette(drawing, slot) for slot in range(drawing.poses.shape[1])]
        return np.max(shares, 0) > 0.5

    def squares(self, indices: Sequence[int], side: int) -> np.ndarray:
        """What squares of the targets show, see `squares.squares`."""
        return squares(self._drawing([self._check(index) for index in indices]), side)

    def whereabouts(self, indices: Sequence[int]) -> list[tuple[float, ...]]:
        """Where the subjects of each scene, in their order, stand in the target: x in shares of the picture's width.

        In a changed one that is where somebody else may stand, or nobody.
        """
        all_facts, drawing = drawings(self.split, [self._check(i) for i in indices], self.seed, self.world)
        found = []
        for facts, identities, places in zip(all_facts, drawing.identities, drawing.places, strict=True):
            codes = np.stack([identity_codes(character.attributes) for character in facts.characters])
            slots = (codes[:, None] == identities).all(-1).argmax(1)
            found.append(tuple((places[slots, 0] / SIZE).tolist()))
        return found

    def _drawing(self, indices):
        """What the targets show, flaws and all."""
        _, drawing = drawings(self.split, indices, self.seed, self.world)
        if self.kind in ("raw", "worn"):
            for row, index in enumerate(indices):
                spoil(drawing, row, scene_rng(self.split, self.seed, index, "flaws"), self.split)
        if self.kind == "changed":
            for row, index in enumerate(indices):
                change(drawing, row, scene_rng(self.split, self.seed, index, "changes"), self.split)
        return drawing

    def _check(self, index):
        if not -self.size <= index < self.size:
            raise IndexError(f"example {index} of a set of {self.size}")
        return int(index) % self.size
