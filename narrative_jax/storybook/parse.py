"""Reads a picture blind: what set, style, characters, attributes and poses does it show?

Analysis by synthesis: characters are found one after the other, from a coarse grid to a quarter of a pixel, by how
well a figure explains the pixels (see `evidence`); each is read again once the others are known. Then everything
is measured against its alternatives. Nothing here knows what the picture should show.
"""

from dataclasses import dataclass, fields

import numpy as np

from narrative_jax.core.errors import InputError, check_count
from narrative_jax.storybook import figure, sets
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
    squared,
)
from narrative_jax.storybook.render import Drawing, empty_drawing, paint, render, silhouette
from narrative_jax.storybook.world import ATTRIBUTE_NAMES, LOCATIONS, NUM_VALUES, PALETTES, POSES, STYLES

PRESENT = 0.5  # how surely something is seen from where on it counts as seen
# Settings are judged on the styled picture, where colours lie closer than before the style.
_SETTING_NULL, _SETTING_TEMPERATURE = 0.08, 0.004
# The coarse grid of ground points, every second pixel, so that windows begin at even rows and columns.
_GRID = np.stack(np.meshgrid(np.arange(-1, sets.SIZE + 2, 2), np.arange(28, 44, 2)), -1).reshape(-1, 2)
_STARTS = 2  # places on it from which the fine search begins
_LEAST_GAIN = 3.0  # squared colour distance times pixels; what is left when all is explained gains less
_LEAST_SIGHT = 0.35  # share of a figure that must be seen for it to count as there
_HIDDEN, _PART_HIDDEN = 0.2, 0.5  # of an ink, and of a body part, must be seen to be judged
_CHUNK = 32  # pictures at a time, to stay in cache

_AROUND = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1)), -1).reshape(-1, 2)
_CROSS = _AROUND[np.abs(_AROUND).sum(1) < 2]
_BEFORE = _AROUND[(_AROUND < 1).all(1)]  # with half-pixel phases, these span a cell of the coarse grid
_COLOUR_INKS = {i: figure.INKS.index(name) for i, name in enumerate(ATTRIBUTE_NAMES) if name in PALETTES}
_LIMBS = [i for i, part in enumerate(figure.PARTS) if part not in ("head", "torso")]
_HEAD_AREA, _LIMB_AREA = 12.0, 20.0  # pixels in which two hats or hairs, and two poses, differ at least


@dataclass(frozen=True)
class Parse:
    """What is seen in a batch of pictures. Characters are ordered from back to front; see `drawing.present`.

    `drawing` the nearest picture of the world, in numbers; `attributes` f32[b, c, 7, value], `actions`
    f32[b, c, pose], `locations` f32[b, 6], `styles` f32[b, 4]: how surely each value is seen (they sum to less than 1
    where nothing is recognised); `visible` bool[b, c, 7]: the attribute is neither cut off nor covered; `parts`
    f32[b, c, 6]: how surely, and how far in the frame, each body part is drawn; `cut` and `covered` f32[b, c]: shares
    of the figure beyond the frame and behind others; `distance` f32[b]: RMS colour distance to the nearest picture.
    """

    drawing: Drawing
    attributes: np.ndarray
    visible: np.ndarray
    actions: np.ndarray
    parts: np.ndarray
    cut: np.ndarray
    covered: np.ndarray
    locations: np.ndarray
    styles: np.ndarray
    distance: np.ndarray


def parse(pictures: np.ndarray, max_found: int = 3) -> Parse:
    """Read pictures f32[b, 40, 40, 3] in [-1, 1]; up to `max_found` characters in each. Raises InputError.

    Characters are looked for where their ground point is in the lower third of the picture or up to 4 pixels below.
    """
    pictures = check_pictures(pictures)
    check_count("max_found", max_found, minimum=1)
    chunks = [_parse(pictures[i : i + _CHUNK], max_found) for i in range(0, len(pictures), _CHUNK)]
    drawing = Drawing(*(np.concatenate([getattr(c.drawing, f.name) for c in chunks]) for f in fields(Drawing)))
    rest = [np.concatenate([getattr(c, f.name) for c in chunks]) for f in fields(Parse) if f.name != "drawing"]
    return Parse(drawing, *rest)


def check_pictures(pictures) -> np.ndarray:
    """The pictures as f32[b, 40, 40, 3]. Raises InputError on another shape or dtype, NaN, or values past [-1, 1]."""
    pictures = np.asarray(pictures)
    size = sets.SIZE
    if pictures.shape[1:] != (size, size, 3) or not len(pictures):
        raise InputError(
            f"pictures of shape {pictures.shape}",
            f"Storybook pictures are [batch ≥ 1, {size}, {size}, 3]",
            "resize them, keep RGB only and add a batch axis",
        )
    if pictures.dtype.kind in "buiOc" or not np.can_cast(pictures.dtype, np.float32, "same_kind"):
        raise InputError(f"pictures of dtype {pictures.dtype}", "they are floats in [-1, 1]", "use x / 127.5 - 1")
    pictures = pictures.astype(np.float32, copy=False)
    low, high = pictures.min(), pictures.max()
    if not np.isfinite(low + high):
        bad = np.flatnonzero(~np.isfinite(pictures).all((1, 2, 3)))
        raise InputError(f"NaN or infinity in pictures {bad[:8].tolist()}", "values are finite", "mend or drop them")
    if low < -1.001 or high > 1.001:
        raise InputError(f"values from {low:.3g} to {high:.3g}", "pictures lie in [-1, 1]", "clip or rescale them")
    return pictures


def _parse(pictures, max_found):
    styled = (pictures + 1) / 2
    drawing = empty_drawing(len(styled), max_found)
    setting = _setting_distances(styled, np.ones_like(styled[..., 0]), every=2).argmin(-1)
    drawing.locations[:], drawing.styles[:] = np.divmod(setting, len(STYLES))
    gains, offsets = sets.styles()
    flat = (styled - offsets[drawing.styles]) / gains[drawing.styles, None, None]

    rows = np.arange(len(flat))
    for slot in range(max_found):
        view = View(flat[rows], sets.stage_sets()[drawing.locations[rows]], _uncovered(drawing[rows], -1))
        some = view.unexplained() > _LEAST_GAIN
        rows, view = rows[some], view[some]
        if not len(rows):
            break
        _put(drawing, rows, slot, _find(view))
        some = drawing.present[rows, slot]  # where nobody was found there is nobody else
        rows, view = rows[some], view[some]
        if not len(rows):
            break
        one = _take(drawing, rows, slot)
        _read(view, one)
        _put(drawing, rows, slot, one)
    # Once all are known, each is read again in its place between the others, and stays if it explains enough.
    _sort_by_depth(drawing)
    for slot in range(max_found):
        rows = np.flatnonzero(drawing.present[:, slot])
        if not len(rows):
            break
        one, view = _take(drawing, rows, slot), _in_context(flat, drawing, rows, slot)
        _read(view, one)
        one.parts[:] &= _explains(view, one)[:, None, None]
        _put(drawing, rows, slot, one)
    _sort_by_depth(drawing)
    return _measure(styled, flat, drawing)


def _setting_distances(styled, weight, every=1):
    """Weighted mean squared distance to each set in each style, f32[b, location · style], over every n-th pixel."""
    gains, offsets = sets.styles()
    candidates = sets.stage_sets()[:, None] * gains[:, None, None] + offsets
    styled, weight = styled[:, ::every, ::every], weight[:, ::every, ::every]
    distances = np.empty((len(styled), len(LOCATIONS) * len(STYLES)), np.float32)
    for i, candidate in enumerate(candidates[:, :, ::every, ::every].reshape(-1, *styled.shape[1:])):
        # Truncated, because a figure not yet known covers part of the set.
        distance = np.minimum(squared(styled - candidate), 4 * _SETTING_NULL)
        distances[:, i] = np.einsum("bhw,bhw->b", weight, distance)
    return distances / np.maximum(weight.sum((1, 2)), 1)[:, None]


def _find(view):
    """The pose and place of the figure that explains most, as one-slot drawings; nobody where none explains enough."""
    features = view.features()
    rows = np.arange(len(features))
    best = coarse_gains(features, _GRID).max(-1).argsort(-1)[:, -_STARTS:]
    starts = (_GRID[best][:, :, None] + _BEFORE).reshape(len(rows), -1, 2)
    gains = fine_gains(features, starts)
    flat = gains.reshape(len(rows), -1)
    start, pose, half_y, half_x = np.unravel_index(flat.argmax(-1), gains.shape[1:])
    found = empty_drawing(len(rows), 1)
    found.poses[:, 0], found.parts[:] = pose, (flat.max(-1) > _LEAST_GAIN)[:, None, None]
    found.places[:, 0] = starts[rows, start] + np.stack([half_x, half_y], -1) / 2
    return found


def _read(view, one):
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


def _explains(view, one):
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


def _take(drawing, rows, slot):
    """One slot of some rows as a one-slot drawing (a copy)."""
    part = drawing[rows]
    by_slot = (getattr(part, name)[:, slot : slot + 1] for name in ("identities", "poses", "places", "parts"))
    return Drawing(*by_slot, part.locations, part.styles)


def _put(drawing, rows, slot, one):
    for name in ("identities", "poses", "places", "parts"):
        getattr(drawing, name)[rows, slot] = getattr(one, name)[:, 0]


def _sort_by_depth(drawing):
    """Order the slots from back to front, in place: who stands lower is nearer; empty slots come last."""
    order = np.where(drawing.present, drawing.places[..., 1], np.inf).argsort(1, kind="stable")
    for name in ("identities", "poses", "places", "parts"):
        values = getattr(drawing, name)
        values[:] = np.take_along_axis(values, order.reshape(*order.shape, *[1] * (values.ndim - 2)), axis=1)


def _uncovered(drawing, slot):
    """Where no character in front of a slot (-1: none at all) is seen, f32[b, h, w]."""
    uncovered = np.ones((len(drawing), sets.SIZE, sets.SIZE), np.float32)
    for other in range(slot + 1, drawing.poses.shape[1]):
        uncovered *= 1 - silhouette(drawing, other)
    return uncovered


def _in_context(flat, drawing, rows, slot):
    """The view for reading one slot with the other characters known: those behind are part of the ground."""
    drawing = drawing[rows]
    ground = sets.stage_sets()[drawing.locations]
    for other in range(slot):
        ground = paint(ground, drawing, other)
    return View(flat[rows], ground, _uncovered(drawing, slot))


def _measure(styled, flat, drawing):
    """How surely each thing in the drawing is seen."""
    b, c = drawing.poses.shape
    attributes = np.zeros((b, c, len(ATTRIBUTE_NAMES), max(NUM_VALUES)), np.float32)
    visible, actions = np.zeros(attributes.shape[:3], bool), np.zeros((b, c, len(POSES)), np.float32)
    parts, inside = np.zeros((2, b, c, len(figure.PARTS)), np.float32)
    cut, covered = np.zeros((2, b, c), np.float32)
    for slot in range(c):
        rows = np.flatnonzero(drawing.present[:, slot])
        if not len(rows):
            break
        view, one = _in_context(flat, drawing, rows, slot), _take(drawing, rows, slot)
        fit, features = Fit(view, one), view.features()
        distance, missing, in_sight, inside[rows, slot] = fit.parts()
        parts[rows, slot] = _measure_parts(distance, missing, in_sight, inside[rows, slot])
        attributes[rows, slot], visible[rows, slot] = _measure_attributes(
            features, one, distance[:, 0], *fit.inks(parts[rows, slot] > PRESENT)
        )
        actions[rows, slot] = _measure_actions(features, one, distance[:, _LIMBS].mean(-1))
        _, mass, full = fit.whole()
        in_frame = silhouette(one, 0).sum((1, 2))
        cut[rows, slot] = 1 - in_frame / full
        covered[rows, slot] = 1 - mass / np.maximum(in_frame, 1e-6)
        drawing.identities[rows, slot] = attributes[rows, slot].argmax(-1)
    setting = recognition(_setting_distances(styled, _uncovered(drawing, -1)), _SETTING_NULL, _SETTING_TEMPERATURE)
    setting = setting.reshape(b, len(LOCATIONS), len(STYLES))
    drawing.parts[:] = parts > PRESENT
    distance = np.sqrt(((render(drawing) / 2 + 0.5 - styled) ** 2).mean((1, 2, 3)))
    return Parse(
        drawing, attributes, visible, actions, parts * inside, cut, covered, setting.sum(2), setting.sum(1), distance
    )


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
