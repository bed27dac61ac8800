"""What befalls the targets of training sets, by lot; the raw set's rates are the complaints of the papers."""

import numpy as np

from narrative_jax.storybook.render import Drawing
from narrative_jax.storybook.squares import LIMBS
from narrative_jax.storybook.wear import blurred, noisy
from narrative_jax.storybook.world import (
    LOCATIONS,
    NUM_VALUES,
    PORTRAIT_POSE,
    POSES,
    STYLES,
    is_held_out,
    split_identities,
)

WRONG_IDENTITY = 0.2  # of the raw targets show another subject, or an attribute leaked from the other one
POSED = 0.4  # of the raw targets stand as in the portrait, whatever the caption says
WORN = 0.5  # of the worn targets are noisy or blurred
MOST_NOISE, MOST_BLUR = 0.3, 1.2  # by how much at most: deviation (of a range of 2), pixels
CHANGED = 0.5  # of a changed target's figures, poses, places and styles are drawn anew, and of a figure's attributes
_TRIES = 30  # to find one of a split that has a tenth of them all
LOST = 0.15  # of its two figures one is missing
LIMBS_LOST = 0.3  # are missing of its figures, twice as many as of drawn ones: from few, nothing is learned of arms


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
    """Draw half of what one target shows anew, in place, and lose some of it.

    Whom it shows then are people of the split still, and those of "train" do nothing there that is held out.
    """
    present = np.flatnonzero(drawing.present[row])
    if len(present) > 1 and rng.random() < LOST:
        gone, *present = rng.permutation(present)
        drawing.parts[row, gone] = False
    for slot in present:
        if rng.random() < CHANGED:
            drawing.identities[row, slot] = _somebody_else(drawing.identities[row, slot], rng, split)
        drawing.parts[row, slot, LIMBS] &= rng.random(len(LIMBS)) >= LIMBS_LOST
    before = (*drawing.poses[row, present], drawing.locations[row], drawing.styles[row])
    counts = (*[len(POSES)] * len(present), len(LOCATIONS), len(STYLES))
    while True:
        *poses, location, style = np.where(rng.random(len(before)) < CHANGED, rng.integers(counts), before)
        if split != "train" or not any(is_held_out(pose, location, style) for pose in poses):
            break
    drawing.poses[row, present], drawing.locations[row], drawing.styles[row] = poses, location, style


def _somebody_else(own, rng, split):
    """One of the split with half of the attributes drawn anew, so that splits change alike; a small one has fewer."""
    known = split_identities(split)
    for _ in range(_TRIES):
        stranger = np.array(np.unravel_index(rng.choice(known), NUM_VALUES))
        mixed = np.where(rng.random(len(own)) < CHANGED, stranger, own)
        if np.ravel_multi_index(mixed, NUM_VALUES) in known:
            return mixed
    return stranger
