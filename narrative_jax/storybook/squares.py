"""What each square of a picture shows, in numbers: of whom, in what pose, with which limbs; where, in which style."""

from dataclasses import replace

import numpy as np

from narrative_jax.storybook.figure import PARTS
from narrative_jax.storybook.render import Drawing, silhouette
from narrative_jax.storybook.sets import SIZE
from narrative_jax.storybook.world import ATTRIBUTE_NAMES, PORTRAIT_POSE, POSES

NOT_TOLD = -1
LIMBS = tuple(place for place, part in enumerate(PARTS) if part not in ("head", "torso"))
# Of the figure that stands in a square, and of its limbs where they are or would be; what is asked of every one comes
# behind.
OF_FIGURES = (*ATTRIBUTE_NAMES, "pose")
OF_LIMBS = tuple(PARTS[place] for place in LIMBS)
QUESTIONS = (*OF_FIGURES, *OF_LIMBS, "somebody", "location", "style")
_SOMEBODY = QUESTIONS.index("somebody")
_COVERED, _TOUCHED = 0.2, 0.06  # shares of a square from which on it shows a figure, and a limb


def squares(drawing: Drawing, side: int) -> np.ndarray:
    """What squares of `side` pixels, a part of SIZE, show, from left to right and from top to bottom: i32[b, squares,
    questions].

    Of two figures in one the front one counts; all of a figure is told, seen there or not, but of a limb whether it is
    there only where it is or would be: asked everywhere, nothing was learned of arms. NOT_TOLD where nobody is.
    """
    count = SIZE // side
    shown = np.full((len(drawing), count**2, len(QUESTIONS)), NOT_TOLD, np.int32)
    shown[..., _SOMEBODY] = 0
    shown[..., QUESTIONS.index("location")] = drawing.locations[:, None]
    shown[..., QUESTIONS.index("style")] = drawing.styles[:, None]
    for slot in range(drawing.poses.shape[1]):
        covered = _covered(silhouette(drawing, slot), count)
        figure = np.concatenate([drawing.identities[:, slot], drawing.poses[:, slot, None]], -1)
        figure_here, limbs = shown[..., : len(OF_FIGURES)], shown[..., len(OF_FIGURES) : _SOMEBODY]
        figure_here[:] = np.where(covered[..., None], figure[:, None], figure_here)
        shown[..., _SOMEBODY] |= covered
        limbs[covered] = NOT_TOLD  # of who stands behind
        for place, limb in enumerate(LIMBS):
            told = _covered(_alone(drawing, slot, limb), count, _TOUCHED) & drawing.present[:, slot, None]
            limbs[..., place] = np.where(told, drawing.parts[:, slot, None, limb], limbs[..., place])
    return shown


def squares_of_portrait(identity: np.ndarray, mask: np.ndarray, side: int) -> np.ndarray:
    """The same of a portrait of an identity i[7], with its mask bool[h, w], square, shown as large as a picture.

    Nothing of limbs, which are always there.
    """
    count = SIZE // side
    nearest = np.int32((np.arange(SIZE) + 0.5) * len(mask) / SIZE)
    covered = _covered(np.float32(mask[np.ix_(nearest, nearest)])[None], count)[0]
    shown = np.full((count**2, len(QUESTIONS)), NOT_TOLD, np.int32)
    shown[:, _SOMEBODY] = covered
    shown[covered, : len(OF_FIGURES)] = (*identity, POSES.index(PORTRAIT_POSE))
    return shown


def _alone(drawing, slot, part):
    """Where one part of the figures of a slot is, or would be, in shares of pixels f32[b, h, w]."""
    drawing = replace(drawing, parts=np.zeros_like(drawing.parts))
    drawing.parts[:, slot, part] = True
    return silhouette(drawing, slot)


def _covered(shares, count, least=_COVERED):
    """Which squares, bool[b, squares], a figure covers that covers these shares of pixels f32[b, h, w]."""
    side = SIZE // count
    return shares.reshape(-1, count, side, count, side).mean((2, 4)).reshape(-1, count**2) > least
