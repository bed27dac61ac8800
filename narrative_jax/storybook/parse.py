"""Reads a picture blind: what set, style, characters, attributes and poses does it show?

Analysis by synthesis: characters are found one after the other, from a coarse grid to a quarter of a pixel, by how
well a figure explains the pixels (see `one_figure`); each is read again once the others are known. Then everything
is measured against its alternatives. Nothing here knows what the picture should show.
"""

from dataclasses import dataclass, fields

import numpy as np

from narrative_jax.core.errors import InputError, check_count
from narrative_jax.storybook import sets
from narrative_jax.storybook.evidence import View, recognition, squared
from narrative_jax.storybook.figure import PARTS
from narrative_jax.storybook.one_figure import LEAST_GAIN, PRESENT, explains, find, measure, read
from narrative_jax.storybook.render import Drawing, empty_drawing, paint, render, silhouette
from narrative_jax.storybook.world import ATTRIBUTE_NAMES, LOCATIONS, NUM_VALUES, POSES, STYLES

# Settings are judged on the styled picture, where colours lie closer than before the style.
_SETTING_NULL, _SETTING_TEMPERATURE = 0.08, 0.004
_CHUNK = 32  # pictures at a time, to stay in cache


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
        some = view.unexplained() > LEAST_GAIN
        rows, view = rows[some], view[some]
        if not len(rows):
            break
        _put(drawing, rows, slot, find(view))
        some = drawing.present[rows, slot]  # where nobody was found there is nobody else
        rows, view = rows[some], view[some]
        if not len(rows):
            break
        one = _take(drawing, rows, slot)
        read(view, one)
        _put(drawing, rows, slot, one)
    # Once all are known, each is read again in its place between the others, and stays if it explains enough.
    _sort_by_depth(drawing)
    for slot in range(max_found):
        rows = np.flatnonzero(drawing.present[:, slot])
        if not len(rows):
            break
        one, view = _take(drawing, rows, slot), _in_context(flat, drawing, rows, slot)
        read(view, one)
        one.parts[:] &= explains(view, one)[:, None, None]
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
    parts, inside = np.zeros((2, b, c, len(PARTS)), np.float32)
    cut, covered = np.zeros((2, b, c), np.float32)
    for slot in range(c):
        rows = np.flatnonzero(drawing.present[:, slot])
        if not len(rows):
            break
        own = measure(_in_context(flat, drawing, rows, slot), _take(drawing, rows, slot))
        attributes[rows, slot], visible[rows, slot], actions[rows, slot] = own.attributes, own.visible, own.actions
        parts[rows, slot], inside[rows, slot] = own.drawn, own.inside
        cut[rows, slot], covered[rows, slot] = own.cut, own.covered
        drawing.identities[rows, slot] = own.attributes.argmax(-1)
    setting = recognition(_setting_distances(styled, _uncovered(drawing, -1)), _SETTING_NULL, _SETTING_TEMPERATURE)
    setting = setting.reshape(b, len(LOCATIONS), len(STYLES))
    drawing.parts[:] = parts > PRESENT
    distance = np.sqrt(((render(drawing) / 2 + 0.5 - styled) ** 2).mean((1, 2, 3)))
    return Parse(
        drawing, attributes, visible, actions, parts * inside, cut, covered, setting.sum(2), setting.sum(1), distance
    )
