"""What each square of a picture shows, in numbers: of whom, in what pose, with which limbs; where, in which style."""

import numpy as np

from narrative_jax.storybook.figure import PARTS
from narrative_jax.storybook.render import Drawing, silhouette
from narrative_jax.storybook.sets import SIZE
from narrative_jax.storybook.world import ATTRIBUTE_NAMES, PORTRAIT_POSE, POSES

NOT_TOLD = -1
LIMBS = tuple(place for place, part in enumerate(PARTS) if part not in ("head", "torso"))
# Of the figure that stands in a square; what is asked of every one comes behind.
OF_FIGURES = (*ATTRIBUTE_NAMES, "pose", *(PARTS[place] for place in LIMBS))
QUESTIONS = (*OF_FIGURES, "somebody", "location", "style")
_COVERED = 0.2  # share of a square from which on it shows a figure


def squares(drawing: Drawing, side: int) -> np.ndarray:
    """What squares of `side` pixels, a part of SIZE, show, from left to right and from top to bottom: i32[b, squares,
    questions].

    Of two figures in one the front one counts; all of a figure is told, seen there or not. NOT_TOLD where nobody is.
    """
    count = SIZE // side
    shown = np.full((len(drawing), count**2, len(QUESTIONS)), NOT_TOLD, np.int32)
    shown[..., QUESTIONS.index("somebody")] = 0
    shown[..., QUESTIONS.index("location")] = drawing.locations[:, None]
    shown[..., QUESTIONS.index("style")] = drawing.styles[:, None]
    for slot in range(drawing.poses.shape[1]):
        covered = _covered(silhouette(drawing, slot), count)
        figure = _of_figure(drawing.identities[:, slot], drawing.poses[:, slot], drawing.parts[:, slot])
        shown[..., : figure.shape[-1]] = np.where(covered[..., None], figure[:, None], shown[..., : figure.shape[-1]])
    return shown


def squares_of_portrait(identity: np.ndarray, mask: np.ndarray, side: int) -> np.ndarray:
    """The same of a portrait of an identity i[7], with its mask bool[h, w], square, shown as large as a picture."""
    count = SIZE // side
    nearest = np.int32((np.arange(SIZE) + 0.5) * len(mask) / SIZE)
    covered = _covered(np.float32(mask[np.ix_(nearest, nearest)])[None], count)[0]
    figure = _of_figure(identity[None], np.array([POSES.index(PORTRAIT_POSE)]), np.ones((1, len(PARTS)), bool))
    shown = np.full((count**2, len(QUESTIONS)), NOT_TOLD, np.int32)
    shown[:, QUESTIONS.index("somebody")] = 0
    shown[covered, : figure.shape[-1]] = figure
    return shown


def _of_figure(identities, poses, parts):
    """Answers i[b, len(OF_FIGURES) + 1], the last that somebody is there."""
    return np.concatenate([identities, poses[:, None], parts[:, LIMBS], np.ones_like(poses[:, None])], -1)


def _covered(shares, count):
    """Which squares, bool[b, squares], a figure covers that covers these shares of pixels f32[b, h, w]."""
    side = SIZE // count
    return shares.reshape(-1, count, side, count, side).mean((2, 4)).reshape(-1, count**2) > _COVERED
