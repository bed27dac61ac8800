"""What befalls the targets of training sets, by lot; the raw set's rates are the complaints of the papers."""

import numpy as np

from narrative_jax.storybook.render import Drawing
from narrative_jax.storybook.squares import LIMBS
from narrative_jax.storybook.wear import blurred, noisy
from narrative_jax.storybook.world import LOCATIONS, NUM_VALUES, PORTRAIT_POSE, POSES, STYLES, split_identities

WRONG_IDENTITY = 0.2  # of the raw targets show another subject, or an attribute leaked from the other one
POSED = 0.4  # of the raw targets stand as in the portrait, whatever the caption says
WORN = 0.5  # of the worn targets are noisy or blurred
MOST_NOISE, MOST_BLUR = 0.3, 1.2  # by how much at most: deviation (of a range of 2), pixels
CHANGED = 0.5  # of all that a changed target shows is drawn anew
LOST = 0.15  # of the limbs of its figures are missing, and of its two figures one


def worn(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One picture f32[40, 40, 3] with the noise or the blur that falls on it."""
    if rng.random() >= WORN:
        return picture
    strength = rng.random()
    if rng.random() < 0.5:
        return noisy(picture[None], strength * MOST_NOISE, rng)[0]
    return blurred(picture[None], strength * MOST_BLUR)[0]


def spoil(drawing: Drawing, row: int, rng: np.random.Generator, split: str) -> None:
    """Give one target the flaws that fall on it, in place."""
    present = np.flatnonzero(drawing.present[row])
    if rng.random() < WRONG_IDENTITY:
        slot = rng.choice(present)
        others = present[present != slot]
        if len(others) and rng.random() < 0.5:
            own, other = drawing.identities[row, slot], drawing.identities[row, others[0]]
            leaked = rng.choice(np.flatnonzero(own != other))
            own[leaked] = other[leaked]
        else:
            stranger = rng.choice(split_identities(split))
            drawing.identities[row, slot] = np.unravel_index(stranger, NUM_VALUES)
    if rng.random() < POSED:
        drawing.poses[row, present] = POSES.index(PORTRAIT_POSE)


def change(drawing: Drawing, row: int, rng: np.random.Generator, split: str) -> None:
    """Draw half of what one target shows anew, in place; whom it shows then are people of the split still."""
    present = np.flatnonzero(drawing.present[row])
    if len(present) > 1 and rng.random() < LOST:
        gone, *present = rng.permutation(present)
        drawing.parts[row, gone] = False
    for slot in present:
        if rng.random() < CHANGED:
            drawing.identities[row, slot] = _somebody_else(drawing.identities[row, slot], rng, split)
        if rng.random() < CHANGED:
            drawing.poses[row, slot] = rng.integers(len(POSES))
        drawing.parts[row, slot, LIMBS] &= rng.random(len(LIMBS)) >= LOST
    if rng.random() < CHANGED:
        drawing.locations[row] = rng.integers(len(LOCATIONS))
    if rng.random() < CHANGED:
        drawing.styles[row] = rng.integers(len(STYLES))


def _somebody_else(own, rng, split):
    """Half of the attributes drawn anew where that is one of the split, else all of them."""
    stranger = np.array(np.unravel_index(rng.choice(split_identities(split)), NUM_VALUES))
    mixed = np.where(rng.random(len(own)) < CHANGED, stranger, own)
    return mixed if np.ravel_multi_index(mixed, NUM_VALUES) in split_identities(split) else stranger
