"""One figure, seen alone: where it stands, what it is, and how surely each thing of it is seen.

All is read from a `View` and written to drawings of one slot. Nothing here knows what the picture should show.
"""

from typing import NamedTuple

import numpy as np

from narrative_jax.storybook import figure
from narrative_jax.storybook.evidence import (
    HAIR,
    HAT,
    NULL,
    STEP,
    TEMPERATURE,
    Fit,
    View,
    coarse_gains,
    fine_gains,
    head_gains,
    hypotheses_gain,
    pose_hypotheses,
    recognition,
)
from narrative_jax.storybook.render import Drawing, empty_drawing, silhouette
from narrative_jax.storybook.sets import SIZE
from narrative_jax.storybook.world import ATTRIBUTE_NAMES, NUM_VALUES, PALETTES

PRESENT = 0.5  # how surely something is seen from where on it counts as seen
LEAST_GAIN = 3.0  # squared colour distance times pixels; what is left when all is explained gains less
# The coarse grid of ground points, every second pixel, so that windows begin at even rows and columns.
_GRID = np.stack(np.meshgrid(np.arange(-1, SIZE + 2, 2), np.arange(28, 44, 2)), -1).reshape(-1, 2)
_STARTS = 2  # places on it from which the fine search begins
_LEAST_SIGHT = 0.35  # share of a figure that must be seen for it to count as there
_HIDDEN, _PART_HIDDEN = 0.2, 0.5  # of an ink, and of a body part, must be seen to be judged

_AROUND = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1)), -1).reshape(-1, 2)
_CROSS = _AROUND[np.abs(_AROUND).sum(1) < 2]
_BEFORE = _AROUND[(_AROUND < 1).all(1)]  # with half-pixel phases, these span a cell of the coarse grid
_COLOUR_INKS = {i: figure.INKS.index(name) for i, name in enumerate(ATTRIBUTE_NAMES) if name in PALETTES}
_LIMBS = [i for i, part in enumerate(figure.PARTS) if part not in ("head", "torso")]
_HEAD_AREA, _LIMB_AREA = 12.0, 20.0  # pixels in which two hats or hairs, and two poses, differ at least


class Measures(NamedTuple):
    """How surely each thing of one figure in each picture is seen.

    `attributes` f32[b, 7, value], `visible` bool[b, 7], `actions` f32[b, pose], `cut` and `covered` f32[b] as in
    `Parse`; `drawn` and `inside` f32[b, 6]: how surely each body part is drawn, and how far it is in the frame.
    """

    attributes: np.ndarray
    visible: np.ndarray
    actions: np.ndarray
    drawn: np.ndarray
    inside: np.ndarray
    cut: np.ndarray
    covered: np.ndarray


def find(view: View) -> Drawing:
    """The pose and place of the figure that explains most, as one-slot drawings; nobody where none explains enough."""
    features = view.features()
    rows = np.arange(len(features))
    best = coarse_gains(features, _GRID).max(-1).argsort(-1)[:, -_STARTS:]
    starts = (_GRID[best][:, :, None] + _BEFORE).reshape(len(rows), -1, 2)
    gains = fine_gains(features, starts)
    flat = gains.reshape(len(rows), -1)
    start, pose, half_y, half_x = np.unravel_index(flat.argmax(-1), gains.shape[1:])
    found = empty_drawing(len(rows), 1)
    found.poses[:, 0], found.parts[:] = pose, (flat.max(-1) > LEAST_GAIN)[:, None, None]
    found.places[:, 0] = starts[rows, start] + np.stack([half_x, half_y], -1) / 2
    return found


def read(view: View, one: Drawing) -> None:
    """Read hair and hat, then pose and place, then hair and hat again, then colours, in place."""
    features = view.features()
    one.identities[:, 0, [HAIR, HAT]] = _best(head_gains(features, one))
    poses, places = pose_hypotheses(one, _CROSS)
    hair, hat = (one.identities[:, 0, i, None, None] for i in (HAIR, HAT))
    pose, shift = _best(hypotheses_gain(features, poses, hair, hat, places)).T
    one.poses[:, 0], one.places[:, 0] = pose, places[np.arange(len(pose)), pose, shift] / STEP
    one.identities[:, 0, [HAIR, HAT]] = _best(head_gains(features, one))
    colours = Fit(view, one).likely_colours()
    for i, ink in _COLOUR_INKS.items():
        one.identities[:, 0, i] = colours[:, ink]


def explains(view: View, one: Drawing) -> np.ndarray:
    """Whether the figure is there, bool[b]: it is in sight, and explains its pixels better than anything else.

    It leaves less than half of what the ground leaves, less than one flat colour does, and less than `NULL`.
    """
    fit = Fit(view, one)
    distance, mass, full = fit.whole()
    explanations = np.concatenate([distance[:, None], fit.rivals() * (0.5, 1)], axis=-1)
    return (recognition(explanations)[:, 0] > PRESENT) & (mass > _LEAST_SIGHT * full)


def _best(gains):
    """Indices i[b, 2] of the largest of gains f32[b, m, n]."""
    b, m, n = gains.shape
    return np.stack(np.divmod(gains.reshape(b, m * n).argmax(-1), n), -1)


def measure(view: View, one: Drawing) -> Measures:
    """Measure everything in a figure against its alternatives."""
    fit, features = Fit(view, one), view.features()
    distance, missing, in_sight, inside = fit.parts()
    drawn = _measure_parts(distance, missing, in_sight, inside)
    attributes, visible = _measure_attributes(features, one, distance[:, 0], *fit.inks(drawn > PRESENT))
    actions = _measure_actions(features, one, distance[:, _LIMBS].mean(-1))
    _, mass, full = fit.whole()
    in_frame = silhouette(one, 0).sum((1, 2))
    cut, covered = 1 - in_frame / full, 1 - mass / np.maximum(in_frame, 1e-6)
    return Measures(attributes, visible, actions, drawn, inside, cut, covered)


def _measure_attributes(features, one, head_distance, ink_distances, ink_share):
    """How surely each value of each attribute is seen, f32[b, 7, value], and whether it can be, bool[b, 7]."""
    rows, hair, hat = np.arange(len(one)), one.identities[:, 0, HAIR], one.identities[:, 0, HAT]
    gains = head_gains(features, one)
    shapes = {HAIR: gains[rows, :, hat], HAT: gains[rows, hair]}
    attributes = np.zeros((len(one), len(ATTRIBUTE_NAMES), max(NUM_VALUES)), np.float32)
    visible = np.zeros(attributes.shape[:2], bool)
    for i, name in enumerate(ATTRIBUTE_NAMES):
        ink = _COLOUR_INKS[ATTRIBUTE_NAMES.index(name if name in PALETTES else f"{name}_colour")]
        if name in PALETTES:
            distances = ink_distances[:, ink, : NUM_VALUES[i]]
        else:
            distances = _relative(shapes[i], head_distance, _HEAD_AREA)
        attributes[:, i, : NUM_VALUES[i]] = recognition(distances)
        visible[:, i] = ink_share[:, ink] > _HIDDEN
    return attributes, visible


def _measure_actions(features, one, limb_distance):
    """How surely each pose is seen, f32[b, pose]."""
    hair, hat = (one.identities[:, 0, i, None, None] for i in (HAIR, HAT))
    poses, places = pose_hypotheses(one, np.zeros((1, 2), int))
    gains = hypotheses_gain(features, poses, hair, hat, places)[..., 0]
    return recognition(_relative(gains, limb_distance, _LIMB_AREA))


def _measure_parts(distance, missing, in_sight, inside):
    """How surely each body part is drawn, f32[b, 6]: it is, unless without it or with nothing the fit is better.

    Of a part that others cover nothing is known, and it counts as drawn.
    """
    likely = np.exp((np.minimum(missing, NULL) - distance) / TEMPERATURE)
    return np.where(in_sight > _PART_HIDDEN * inside, np.minimum(likely, 1), 1)


def _relative(gains, base, area):
    """Distances of alternatives from their gains: the best one's is `base`, others lose gain over `area` pixels."""
    return base[:, None] + (gains.max(-1, keepdims=True) - gains) / area
