"""Controlled damage to true pictures, with the criteria that each kind may move.

A kind of damage that is there or not is dealt to a share `strength` of the pictures; noise, blur, cut-off and
overlap grow with `strength` in every picture.
"""

from functools import partial

import numpy as np

from narrative_jax.core.errors import check_count, check_name, check_share
from narrative_jax.storybook import sets
from narrative_jax.storybook.figure import PARTS
from narrative_jax.storybook.oracle import CRITERIA
from narrative_jax.storybook.render import Drawing, render
from narrative_jax.storybook.wear import blurred, noisy
from narrative_jax.storybook.world import (
    ACTIONS,
    ATTRIBUTE_NAMES,
    LOCATIONS,
    NUM_VALUES,
    PALETTES,
    PORTRAIT_POSE,
    POSES,
    STYLES,
)

# What each corruption may move; all else should stay. Where limbs are out of sight, so is the action.
MAY_MOVE = {
    "noise": CRITERIA,
    "blur": CRITERIA,
    "recolour": ("attributes",),
    "exchange actions": ("actions",),
    "drop a character": ("count",),
    "leak": ("attributes", "no_leak"),
    "paste the portrait": ("actions", "no_copy"),
    "wrong action": ("actions",),
    "wrong place": ("setting",),
    "wrong style": ("setting",),
    "cut off": ("actions", "completeness", "composition"),
    "overlap": ("actions", "composition"),
    "lose a limb": ("actions", "completeness"),
}
CORRUPTIONS = tuple(MAY_MOVE)
GRADED = ("noise", "blur", "cut off", "overlap")  # these grow with strength; the others are there or not
_NOISE, _BLUR = 0.5, 2.0  # at strength 1: standard deviation (of a range of 2), and pixels
_EDGE = -1.0  # where the ground point ends up, beyond the frame, when cut off at strength 1
_APART = 4.0  # pixels between two figures that overlap at strength 1
_COLOURS = tuple(i for i, name in enumerate(ATTRIBUTE_NAMES) if name in PALETTES)
_LIMBS = tuple(i for i, part in enumerate(PARTS) if part not in ("head", "torso"))


def corrupt(drawing: Drawing, kind: str, strength: float, seed: int = 0) -> np.ndarray:
    """Pictures f32[b, 40, 40, 3] of the drawings with one kind of damage at `strength` in [0, 1].

    With one seed, what is damaged at some strength is damaged in the same way at a higher one; what happens to a
    picture depends on its place in the batch. Raises InputError.
    """
    pictures = render(damage(drawing, kind, strength, seed))
    if kind == "noise":
        return noisy(pictures, strength * _NOISE, _rng(kind, seed))
    return blurred(pictures, strength * _BLUR) if kind == "blur" else pictures


def damage(drawing: Drawing, kind: str, strength: float, seed: int = 0) -> Drawing:
    """What the pictures of `corrupt` show; noise and blur leave that as it is. Raises InputError."""
    check_name("corruption", kind, CORRUPTIONS)
    check_count("seed", seed)
    check_share("strength", strength)
    damaged, rng = drawing.copy(), _rng(kind, seed)
    pairs = _pairs(drawing, kind)
    for row in np.flatnonzero(pairs.any((1, 2))):
        slot, other = rng.choice(np.argwhere(pairs[row]))
        hit, pick = rng.random() < strength, partial(_pick, rng.random())
        if kind == "cut off":
            side = _EDGE if drawing.places[row, slot, 0] < sets.SIZE / 2 else sets.SIZE - _EDGE
            damaged.places[row, slot, 0] += strength * (side - drawing.places[row, slot, 0])
        elif kind == "overlap":
            behind, front = min(slot, other), max(slot, other)
            gap = drawing.places[row, behind, 0] - drawing.places[row, front, 0]
            damaged.places[row, behind, 0] -= strength * (gap - np.copysign(_APART, gap))
        elif hit:
            _damage(damaged, kind, row, slot, other, pick)
    return damaged


def _rng(kind, seed):
    return np.random.default_rng([seed, CORRUPTIONS.index(kind)])


def can_corrupt(drawing: Drawing, kind: str) -> np.ndarray:
    """Which pictures a kind of damage can befall, bool[b]: some need two characters, or two that differ."""
    return _pairs(drawing, kind).any((1, 2))


def _pairs(drawing, kind):
    """Which slot can be damaged beside which other one, bool[b, c, c]; beside itself where no other is needed."""
    there = drawing.present[:, :, None] & drawing.present[:, None]
    alone = np.eye(there.shape[1], dtype=bool)
    if kind in ("drop a character", "overlap"):
        return there & ~alone
    if kind == "exchange actions":
        return there & (drawing.poses[:, :, None] != drawing.poses[:, None])
    if kind == "leak":
        return there & (drawing.identities[:, :, None] != drawing.identities[:, None]).any(-1)
    return there & (~alone | (drawing.present.sum(1) == 1)[:, None, None])


def _pick(fraction, options):
    """One of some options, by a number in [0, 1) drawn beforehand, so that no draw depends on how many there are."""
    options = list(options)
    return options[int(fraction * len(options))]


def _damage(drawing, kind, row, slot, other, pick):
    """One kind of damage that is there or not, to one character of one picture, in place."""
    own, others = drawing.identities[row, slot], drawing.identities[row, other]
    if kind == "recolour":
        choices = [(i, v) for i in _COLOURS for v in range(NUM_VALUES[i]) if v not in (own[i], others[i])]
        attribute, value = pick(choices)
        own[attribute] = value
    elif kind == "leak":
        attribute = pick(np.flatnonzero(own != others))
        own[attribute] = others[attribute]
    elif kind == "exchange actions":
        drawing.poses[row, [slot, other]] = drawing.poses[row, [other, slot]]
    elif kind == "drop a character":
        drawing.parts[row, slot] = False
    elif kind == "paste the portrait":
        drawing.poses[row, slot] = POSES.index(PORTRAIT_POSE)
    elif kind == "wrong action":
        drawing.poses[row, slot] = pick(p for p in range(len(ACTIONS)) if p != drawing.poses[row, slot])
    elif kind == "wrong place":
        drawing.locations[row] = pick(i for i in range(len(LOCATIONS)) if i != drawing.locations[row])
    elif kind == "wrong style":
        drawing.styles[row] = pick(i for i in range(len(STYLES)) if i != drawing.styles[row])
    elif kind == "lose a limb":
        drawing.parts[row, slot, pick(_LIMBS)] = False
