"""The figure: its shapes for every pose, hair and hat, as layers from back to front.

Coordinates are pixels from the point on the ground between the feet, x to the right and y down.
"""

from functools import cache
from itertools import pairwise

import numpy as np

from narrative_jax.storybook.shapes import capsule, coverage_phases, disc, dome, polygon, rectangle
from narrative_jax.storybook.world import ATTRIBUTES, POSES

HEIGHT, WIDTH = 30, 22  # the window that holds a figure in every pose
ANCHOR_X, ANCHOR_Y = 11, 28  # where the ground point lies in the window
PARTS = ("head", "torso", "left arm", "right arm", "left leg", "right leg")
INKS = ("skin", "hair_colour", "hat_colour", "coat", "trousers", "shoe", "line", "book")

# (ink, part) of each layer, back to front; `body`, `hair` and `hat` layers interleave.
LAYERS = (
    ("hair_colour", "head"),
    ("trousers", "left leg"),
    ("shoe", "left leg"),
    ("trousers", "right leg"),
    ("shoe", "right leg"),
    ("coat", "torso"),
    ("coat", "left arm"),
    ("skin", "left arm"),
    ("coat", "right arm"),
    ("skin", "right arm"),
    ("skin", "head"),
    ("line", "head"),
    ("hair_colour", "head"),
    ("hat_colour", "head"),
    ("line", "head"),
    ("book", "torso"),
)
LAYER_INK = np.array([INKS.index(ink) for ink, _ in LAYERS])
LAYER_PART = np.array([PARTS.index(part) for _, part in LAYERS])

# Per pose: how far the body is lifted, the lean of the head, and per side (left, right) the joints of
# arm (shoulder to hand) and leg (hip to ankle).
_ARM_DOWN = ((3.2, -10.2), (4.7, -5.6))
_ARM_UP = ((3.2, -10.2), (6.9, -11.8), (8.0, -17.0))
_ARM_OUT = ((3.2, -10.2), (8.2, -10.6))
_ARM_SWING = ((3.2, -10.2), (6.4, -7.4))
_ARM_BOOK = ((3.2, -10.2), (5.0, -7.4), (3.6, -6.6))
_LEG_DOWN = ((1.8, -5.4), (1.9, -1.4))
_LEG_SEATED = ((1.8, -5.6), (4.0, -5.1), (7.0, -5.1))
_LEG_SPREAD = ((1.8, -5.4), (5.0, -2.6))
_LEG_STRIDE = ((1.5, -5.4), (4.4, -1.4))
_JOINTS = {
    "stands": (0.0, 0.0, (_ARM_DOWN, _ARM_DOWN), (_LEG_DOWN, _LEG_DOWN)),
    "waves": (0.0, 0.0, (_ARM_DOWN, _ARM_UP), (_LEG_DOWN, _LEG_DOWN)),
    "cheers": (0.0, 0.0, (_ARM_UP, _ARM_UP), (_LEG_DOWN, _LEG_DOWN)),
    "sits": (3.5, 0.0, (_ARM_DOWN, _ARM_DOWN), (_LEG_SEATED, _LEG_SEATED)),
    "jumps": (-3.5, 0.0, (_ARM_OUT, _ARM_OUT), (_LEG_SPREAD, _LEG_SPREAD)),
    "walks": (0.0, 1.0, (_ARM_SWING, _ARM_SWING), (_LEG_STRIDE, _LEG_STRIDE)),
    "reads": (0.0, 0.0, (_ARM_BOOK, _ARM_BOOK), (_LEG_DOWN, _LEG_DOWN)),
}
# How far each pose moves the head from where it is when standing, pixels.
HEAD_SHIFTS = np.array([(_JOINTS[pose][1], _JOINTS[pose][0]) for pose in POSES])


def _limb(joints, side, lift, radius):
    points = [(side * x, y + lift) for x, y in joints]
    return [capsule(*a, *b, radius) for a, b in pairwise(points)]


def _body(pose):
    """Shapes of the layers that depend on the pose alone, by layer number."""
    lift, lean, arms, legs = _JOINTS[pose]
    layers = {}
    for side, arm, leg, first_leg, first_arm in ((-1, arms[0], legs[0], 1, 6), (1, arms[1], legs[1], 3, 8)):
        (hand_x, hand_y), (foot_x, foot_y) = arm[-1], leg[-1]
        foot_x, foot_y, hand_x, hand_y = side * foot_x, foot_y + lift, side * hand_x, hand_y + lift
        layers[first_leg] = _limb(leg, side, lift, 1.4)
        layers[first_leg + 1] = [capsule(foot_x, foot_y + 0.5, foot_x + side * 1.0, foot_y + 0.5, 0.9)]
        layers[first_arm] = _limb(arm, side, lift, 1.15)
        layers[first_arm + 1] = [disc(hand_x, hand_y, 1.25)]
    top, hem = lift - 11.4, lift - 4.6
    layers[5] = [polygon((-2.9, top), (2.9, top), (3.9, hem), (-3.9, hem))]
    layers[10] = [disc(lean, lift - 15, 4.1)]
    layers[11] = [
        disc(lean - 1.6, lift - 14.9, 0.62),
        disc(lean + 1.6, lift - 14.9, 0.62),
        capsule(lean - 0.8, lift - 12.7, lean + 0.8, lift - 12.7, 0.32),
    ]
    pages = [polygon((0, -9.0), (s * 4.2, -10.0), (s * 4.2, -6.2), (0, -5.2)) for s in (-1, 1)]
    layers[15] = pages if pose == "reads" else []
    return layers


def _hair(style, lift, lean):
    """Shapes of the hair behind (layer 0) and in front of (layer 12) the face."""
    sides = (-1, 1)
    fringe = [dome(lean, lift - 16.4, 4.4)]
    behind = {
        "short": [disc(lean, lift - 15.8, 4.8)]
        + [capsule(lean + s * 4.1, lift - 16, lean + s * 4.2, lift - 13.4, 1.0) for s in sides],
        "long": [capsule(lean + s * 3.5, lift - 16, lean + s * 4.3, lift - 9.2, 1.9) for s in sides],
        "curly": [disc(lean + s * 5.0, lift + y, 2.3) for s in sides for y in (-16.2, -13.2)],
        "braided": [capsule(lean + s * 4.2, lift - 15.5, lean + s * 6.6, lift - 8.6, 1.0) for s in sides],
    }
    return {0: behind[style], 12: fringe}


def _hat(shape, lift, lean):
    """Shapes of the hat (layer 13) and its bobble (layer 14)."""
    y = lift - 17.2
    hats = {
        "cap": [dome(lean, y, 4.6), capsule(lean, y, lean + 6.4, y, 0.8)],
        "top hat": [rectangle(lean - 3.1, y - 6, lean + 3.1, y), capsule(lean - 5.4, y, lean + 5.4, y, 0.8)],
        "pointed hat": [
            polygon((lean - 4.4, y), (lean + 4.4, y), (lean + 0.4, y - 6.6)),
            capsule(lean - 5.8, y, lean + 5.8, y, 0.7),
        ],
        "bobble hat": [dome(lean, y, 4.5), capsule(lean - 4, y, lean + 4, y, 1.0)],
    }
    bobble = [disc(lean, y - 4.7, 1.7)] if shape == "bobble hat" else []
    return {13: hats[shape], 14: bobble}


@cache
def layer_templates():
    """Coverage of every layer at every sub-pixel phase.

    Returns (table f32[template, 8 (y), 8 (x), height, width], index int[pose, hair, hat, layer] into it).
    """
    hairs, hats = ATTRIBUTES["hair"], ATTRIBUTES["hat"]
    index = np.zeros((len(POSES), len(hairs), len(hats), len(LAYERS)), int)
    table = []

    def add(layers, *where):
        for layer, shapes in layers.items():
            if shapes:
                index[(*where, layer)] = len(table) + 1  # 0 is the empty template
                table.append(coverage_phases(shapes, HEIGHT, WIDTH, (ANCHOR_X, ANCHOR_Y)))

    for p, pose in enumerate(POSES):
        lift, lean, *_ = _JOINTS[pose]
        add(_body(pose), p, slice(None), slice(None))
        for i, style in enumerate(hairs):
            add(_hair(style, lift, lean), p, i, slice(None))
        for j, shape in enumerate(hats):
            add(_hat(shape, lift, lean), p, slice(None), j)
    return np.stack([np.zeros_like(table[0]), *table]), index
