"""Reads a picture blind: what set, style, characters, attributes and poses does it show?

Analysis by synthesis. A hypothesis is a figure (pose, hair, hat) at a place; its ink masks are known, so how
well it explains the pixels, against bare background, follows from a few sums over each mask: the palette colour
that fits best costs least. Characters are found one after the other, from a coarse grid to a quarter of a
pixel, and each is read again once the others are known. Nothing here knows what the picture should show.
"""

from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from narrative_jax.core.errors import InputError
from narrative_jax.storybook import figure, sets
from narrative_jax.storybook.render import (
    Drawing,
    empty_drawing,
    ink_colours,
    ink_palettes,
    layer_visibility,
    paint,
    render,
    silhouette,
)
from narrative_jax.storybook.shapes import SUPERSAMPLE
from narrative_jax.storybook.world import ATTRIBUTE_NAMES, LOCATIONS, NUM_VALUES, PALETTES, POSES, STYLES

# Squared colour distances (summed over RGB in [0, 1], averaged over a mask). At the first, nothing is
# recognised; the second is how sharply one value is told from another. Settings are judged on the styled
# picture, where colours lie closer.
NULL, TEMPERATURE = 0.12, 0.02
SETTING_NULL, SETTING_TEMPERATURE = 0.08, 0.004
PRESENT = 0.5  # a figure is there if it explains its pixels better than background and nothing do
# The coarse grid of ground points, every second pixel, so that windows begin at even rows and columns.
_COARSE_X, _COARSE_Y = np.arange(-3, sets.SIZE + 4, 2), np.arange(32, 46, 2)
_STARTS = 2  # places on the coarse grid from which the fine search begins
_LEAST_GAIN = 3.0  # squared colour distance times pixels; what is left when all is explained gains less
_HIDDEN = 0.2  # of a mask must be seen for its ink to be read
_CHUNK = 32  # pictures at a time, to stay in cache

_HEIGHT, _WIDTH, _STEP = figure.HEIGHT, figure.WIDTH, 4  # places are searched to a quarter of a pixel
_MARGIN = 2 * _WIDTH  # round the picture, so that windows may hang over its edge
_HAIRS, _HATS = NUM_VALUES[ATTRIBUTE_NAMES.index("hair")], NUM_VALUES[ATTRIBUTE_NAMES.index("hat")]
_HAIR, _HAT = ATTRIBUTE_NAMES.index("hair"), ATTRIBUTE_NAMES.index("hat")
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
    f32[b, c, pose], `locations` f32[b, 6], `styles` f32[b, 4]: how surely each value is seen (they sum to less
    than 1 where nothing is recognised); `visible` bool[b, c, 7]: the attribute is neither cut off nor covered;
    `parts` f32[b, c, 6]: how surely each body part is drawn; `cut` and `covered` f32[b, c]: shares of the figure
    beyond the frame and behind others; `distance` f32[b]: RMS colour distance to the nearest picture.
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
    """Read pictures f32[b, 40, 40, 3] in [-1, 1]; up to `max_found` characters in each. Raises InputError."""
    pictures = check_pictures(pictures)
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
    if not np.issubdtype(pictures.dtype, np.floating):
        raise InputError(f"pictures of dtype {pictures.dtype}", "they are floats in [-1, 1]", "use x / 127.5 - 1")
    low, high = pictures.min(), pictures.max()
    if not np.isfinite(low + high):
        bad = np.flatnonzero(~np.isfinite(pictures).all((1, 2, 3)))
        raise InputError(f"NaN or infinity in pictures {bad[:8].tolist()}", "values are finite", "mend or drop them")
    if low < -1.001 or high > 1.001:
        raise InputError(f"values from {low:.3g} to {high:.3g}", "pictures lie in [-1, 1]", "clip or rescale them")
    return pictures.astype(np.float32, copy=False)


def recognition(distances, null=NULL, temperature=TEMPERATURE):
    """How surely each value on the last axis is seen: a softmax of -distance / temperature with "nothing" at `null`."""
    nearest = np.minimum(distances.min(-1, keepdims=True), null)
    likelihood = np.exp((nearest - distances) / temperature)
    return likelihood / (likelihood.sum(-1, keepdims=True) + np.exp((nearest - null) / temperature))


def _parse(pictures, max_found):
    styled = (pictures + 1) / 2
    drawing = empty_drawing(len(styled), max_found)
    setting = _setting_distances(styled, np.ones_like(styled[..., 0]), every=2).argmin(-1)
    drawing.locations[:], drawing.styles[:] = np.divmod(setting, len(STYLES))
    gains, offsets = sets.styles()
    flat = (styled - offsets[drawing.styles]) / gains[drawing.styles, None, None]

    rows = np.arange(len(flat))
    for slot in range(max_found):
        view = _View(flat[rows], sets.stage_sets()[drawing.locations[rows]], _uncovered(drawing[rows], -1))
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
        distance = np.minimum(((styled - candidate) ** 2).sum(-1), 4 * SETTING_NULL)
        distances[:, i] = (weight * distance).sum((1, 2))
    return distances / np.maximum(weight.sum((1, 2)), 1)[:, None]


@dataclass(frozen=True)
class _View:
    """What one figure is read from: `flat` and `ground` f32[b, h, w, 3], the pictures without style and what is
    behind the figure; `weight` f32[b, h, w], where it can be seen.
    """

    flat: np.ndarray
    ground: np.ndarray
    weight: np.ndarray

    def __getitem__(self, rows):
        return _View(self.flat[rows], self.ground[rows], self.weight[rows])

    def features(self):
        """What sums over masks need, weighted by where the figure can be seen; f32[b, 5, H, W], padded.

        With p the picture and g the ground: p (3 channels), |g|² - 2 p·g, 1. A figure of colour c gains
        |p - g|² - |p - c|² = |g|² - 2 p·g + 2 p·c - |c|² in each of its pixels.
        """
        bare = ((self.ground - 2 * self.flat) * self.ground).sum(-1)
        features = np.stack([*np.moveaxis(self.flat, -1, 0), bare, np.ones_like(bare)], axis=1)
        return _pad(features * self.weight[:, None])


def _pad(channels):
    return np.pad(channels, ((0, 0), (0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))


@cache
def _masks():
    """Squared ink masks of every figure at quarter-pixel phases, f32[pose, hair, hat, 4 (y), 4 (x), ink, h · w].

    Squared, so that a pixel that a mask shares with its neighbours counts for little.
    """
    shape = (len(POSES), _HAIRS, _HATS, _STEP, _STEP)
    pose, hair, hat, y, x = (i.ravel() for i in np.indices(shape))
    drawing = empty_drawing(len(pose), 1)
    drawing.poses[:, 0], drawing.identities[:, 0, _HAIR], drawing.identities[:, 0, _HAT] = pose, hair, hat
    drawing.places[:, 0] = np.stack([x, y], -1) / _STEP
    drawing.parts[:] = True
    return _ink_masks(layer_visibility(drawing, 0)).reshape(*shape, len(figure.INKS), _HEIGHT * _WIDTH) ** 2


@cache
def _pose_masks():
    """`_masks` at half-pixel phases for any hair and hat, f32[pose, 2, 2, row, h · w], and the ink i[row] of each row.

    Hair and hat have a row for each of their shapes, averaged over the other's; other inks are averaged over both.
    """
    masks = _masks()[:, :, :, ::2, ::2]
    rows, inks = [], []
    for ink, name in enumerate(figure.INKS):
        averaged = {"hair_colour": (2,), "hat_colour": (1,)}.get(name, (1, 2))
        own = np.moveaxis(masks[..., ink, :].mean(averaged, keepdims=True), (1, 2), (0, 1))
        rows += [*own.reshape(-1, *own.shape[2:])]
        inks += [ink] * (len(rows) - len(inks))
    return np.stack(rows, axis=3), np.array(inks)


@cache
def _coarse_masks():
    """`_pose_masks` at no phase and half resolution, f32[pose, row, h/2 · w/2]."""
    masks = _pose_masks()[0][:, 0, 0]
    halved = masks.reshape(*masks.shape[:2], _HEIGHT // 2, 2, _WIDTH // 2, 2).mean((3, 5))
    return halved.reshape(*masks.shape[:2], -1)


def _ink_masks(layers):
    """Masks of each ink from those of the layers, [b, layer, ...] -> [b, ink, ...]."""
    return np.stack([layers[:, ink == figure.LAYER_INK].sum(1) for ink in range(len(figure.INKS))], axis=1)


@cache
def _gain_weights():
    """Weights of the features in the gain of each palette colour, f32[ink, value, 5]."""
    colours = ink_palettes()
    one = np.ones_like(colours[..., :1])
    return np.concatenate([2 * colours, one, -(colours**2).sum(-1, keepdims=True)], axis=-1)


def _gain(sums, inks):
    """How much better figures explain the pixels than the ground does, f32[...], from f32[5, row, ...].

    `inks` i[row] says which ink each row's mask is of; of several rows of one ink the best counts.
    """
    gain = 0.0
    for ink, weights in enumerate(_gain_weights()):
        gain = gain + np.tensordot(weights, sums[:, inks == ink], 1).max((0, 1))
    return gain


def _windows(features, top, left, height=_HEIGHT, width=_WIDTH):
    """Windows of padded features at i[b, n] rows and columns, f32[b, n, channel, height · width]."""
    views = sliding_window_view(features, (height, width), axis=(2, 3))
    cut = views[np.arange(len(features))[:, None], :, top, left]
    return cut.reshape(*cut.shape[:3], height * width)


def _corner(places, margin=_MARGIN):
    """Row and column of the window, in padded features, of a figure whose ground point is at i[..., 2] pixels."""
    return places[..., 1] - figure.ANCHOR_Y + margin, places[..., 0] - figure.ANCHOR_X + margin


def _hypotheses_gain(features, poses, hairs, hats, places):
    """Gain of hypotheses i[b, m, n], broadcast, at places i[b, m, n, 2] in quarter pixels, f32[b, m, n]."""
    whole, phase = np.divmod(places, _STEP)
    masks = _masks()[poses, hairs, hats, phase[..., 1], phase[..., 0]]
    b, m, n = whole.shape[:-1]
    windows = _windows(features, *(i.reshape(b, m * n) for i in _corner(whole)))
    sums = masks @ windows.reshape(b, m, n, *windows.shape[2:]).swapaxes(-1, -2)
    return _gain(np.moveaxis(sums, (-1, -2), (0, 1)), np.arange(len(figure.INKS)))


def _find(view):
    """The pose and place of the figure that explains most, as one-slot drawings."""
    features = view.features()
    b = len(features)
    # Coarse: every second pixel, at half resolution.
    halved = sum(features[:, :, y::2, x::2] for y in (0, 1) for x in (0, 1))
    y, x = (i.ravel() for i in np.meshgrid(_COARSE_Y, _COARSE_X, indexing="ij"))
    corner = (np.broadcast_to(i // 2, (b, len(x))) for i in _corner(np.stack([x, y], -1)))
    masks, inks = _pose_masks()
    gain = _mask_gains(_windows(halved, *corner, _HEIGHT // 2, _WIDTH // 2), _coarse_masks(), inks)
    best = gain.max(-1).argsort(-1)[:, -_STARTS:]
    starts = np.stack([x[best], y[best]], -1)

    # Every pose around the best few, to half a pixel.
    starts = (starts[:, :, None] + _BEFORE).reshape(b, -1, 2)
    gain = _mask_gains(_windows(features, *_corner(starts)), masks, inks)
    flat_gain = gain.reshape(b, gain[0].size)
    start, pose, half_y, half_x = np.unravel_index(flat_gain.argmax(-1), gain.shape[1:])
    found = empty_drawing(b, 1)
    found.poses[:, 0], found.parts[:] = pose, (flat_gain.max(-1) > _LEAST_GAIN)[:, None, None]
    found.places[:, 0] = starts[np.arange(b), start] + np.stack([half_x, half_y], -1) / 2
    return found


def _mask_gains(windows, masks, inks):
    """Gain of figures with masks f32[..., row, h · w] in each window f32[b, n, 5, h · w], f32[b, n, ...]."""
    pixels = masks.shape[-1]
    sums = windows.reshape(-1, pixels) @ masks.reshape(-1, pixels).T
    return _gain(np.moveaxis(sums.reshape(*windows.shape[:3], *masks.shape[:-1]), (2, -1), (0, 1)), inks)


def _read(view, one):
    """Read hair and hat, then pose and place, then hair and hat again, then colours, in place."""
    features = view.features()
    one.identities[:, 0, [_HAIR, _HAT]] = _best(_head_gains(features, one))
    poses, places = _pose_hypotheses(one, _CROSS)
    hair, hat = (one.identities[:, 0, i, None, None] for i in (_HAIR, _HAT))
    pose, shift = _best(_hypotheses_gain(features, poses, hair, hat, places)).T
    one.poses[:, 0], one.places[:, 0] = pose, places[np.arange(len(pose)), pose, shift] / _STEP
    one.identities[:, 0, [_HAIR, _HAT]] = _best(_head_gains(features, one))
    fit = _Fit(view, one)
    for i, ink in _COLOUR_INKS.items():
        one.identities[:, 0, i] = fit.ink_distances[:, ink, : NUM_VALUES[i]].argmin(-1)


def _explains(view, one):
    """Whether the figure is there: it explains its pixels better than the ground or nothing does, bool[b]."""
    fit = _Fit(view, one)
    there = recognition(np.stack([fit.distance, fit.bare_distance], -1))[:, 0] > PRESENT
    return there & (fit.mass > _HIDDEN * fit.full)


class _Fit:
    """How far the picture is from the figure as drawn, and how much farther with one thing in it changed.

    All are squared distances, summed over RGB and averaged over a mask: the residual under the mask, plus what
    the change adds to the residual of the picture, over the mask's mass.
    """

    def __init__(self, view, one):
        painted = paint(view.ground, one, 0)
        inside = np.ones_like(view.weight)
        channels = np.concatenate(
            [view.flat - painted, view.ground, view.weight[..., None], inside[..., None]], axis=-1
        )
        whole = np.round(one.places * SUPERSAMPLE).astype(int) // SUPERSAMPLE
        windows = _windows(_pad(np.moveaxis(channels, -1, 1)), *_corner(whole))[:, 0]
        residual, ground, weight, inside = windows[:, :3], windows[:, 3:6], windows[:, 6], windows[:, 7]
        square = weight * (residual**2).sum(1)
        layers = layer_visibility(one, 0).reshape(len(one), len(figure.LAYERS), -1)
        colours = ink_colours(one.identities[:, 0])

        alpha = layers.sum(1)
        self.mass, self.full = (alpha * weight).sum(-1), alpha.sum(-1)
        self.distance = (alpha * square).sum(-1) / np.maximum(self.mass, 1e-6)
        change = (colours[:, figure.LAYER_INK].swapaxes(1, 2) @ layers) - alpha[:, None] * ground
        self.bare_distance = self.distance + _added(change, residual, weight) / np.maximum(self.mass, 1e-6)

        inks = _ink_masks(layers)
        self.ink_mass, self.ink_full = (inks**2 @ weight[..., None])[..., 0], (inks**2).sum(-1)
        mass = np.maximum(self.ink_mass, 1e-6)
        self.ink_residual = (inks**2 @ square[..., None])[..., 0] / mass
        pull = (inks * weight[:, None]) @ residual.swapaxes(1, 2)
        shift = ink_palettes() - colours[:, :, None]
        added = (shift**2).sum(-1) - 2 * (shift @ pull[..., None])[..., 0] / mass[..., None]
        self.ink_distances = self.ink_residual[..., None] + added

        shape = (len(one), len(figure.PARTS))
        self.part_seen, self.part_inside, self.part_distance, self.part_missing = np.zeros((4, *shape), np.float32)
        for part in range(len(figure.PARTS)):
            own = part == figure.LAYER_PART
            mask = layers[:, own].sum(1)
            mass = (weight * mask**2).sum(-1)
            full = (mask**2).sum(-1)
            self.part_seen[:, part] = mass / full
            self.part_inside[:, part] = (inside * mask**2).sum(-1) / full
            mass = np.maximum(mass, 1e-6)
            self.part_distance[:, part] = (mask**2 * square).sum(-1) / mass
            change = (colours[:, figure.LAYER_INK[own]].swapaxes(1, 2) @ layers[:, own]) - mask[:, None] * ground
            self.part_missing[:, part] = self.part_distance[:, part] + _added(change, residual, weight) / mass


def _added(change, residual, weight):
    """What the weighted squared residual gains when `change` f32[b, 3, h · w] is taken out of the picture drawn."""
    return (weight * (change * (2 * residual + change)).sum(1)).sum(-1)


def _best(gains):
    """Indices i[b, 2] of the largest of gains f32[b, m, n]."""
    b, m, n = gains.shape
    return np.stack(np.divmod(gains.reshape(b, m * n).argmax(-1), n), -1)


def _quarters(one):
    return np.round(one.places[:, 0] * _STEP).astype(int)


def _head_gains(features, one):
    """Gain of each hair and hat on the figure, f32[b, hair, hat]."""
    hair, hat = np.indices((1, _HAIRS, _HATS))[1:]
    return _hypotheses_gain(features, one.poses[:, :, None], hair, hat, _quarters(one)[:, None, None])


def _pose_hypotheses(one, shifts):
    """Every pose with the head where it is, and places i[b, pose, shift, 2] round that, in quarter pixels."""
    poses = np.arange(len(POSES))[None, :, None]
    head = figure.HEAD_SHIFTS[one.poses] - figure.HEAD_SHIFTS
    return poses, _quarters(one)[:, None, None] + np.round(head * _STEP).astype(int)[:, :, None] + shifts


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
    return _View(flat[rows], ground, _uncovered(drawing, slot))


def _measure(styled, flat, drawing):
    """How surely each thing in the drawing is seen."""
    b, c = drawing.poses.shape
    attributes = np.zeros((b, c, len(ATTRIBUTE_NAMES), max(NUM_VALUES)), np.float32)
    visible, actions = np.zeros(attributes.shape[:3], bool), np.zeros((b, c, len(POSES)), np.float32)
    parts, cut, covered = np.zeros((b, c, len(figure.PARTS)), np.float32), *np.zeros((2, b, c), np.float32)
    for slot in range(c):
        rows = np.flatnonzero(drawing.present[:, slot])
        if not len(rows):
            break
        view, one = _in_context(flat, drawing, rows, slot), _take(drawing, rows, slot)
        fit, features = _Fit(view, one), view.features()
        attributes[rows, slot], visible[rows, slot] = _measure_attributes(features, one, fit)
        actions[rows, slot], parts[rows, slot] = _measure_actions(features, one, fit), _measure_parts(fit)
        in_frame = silhouette(one, 0).sum((1, 2))
        cut[rows, slot] = 1 - in_frame / fit.full
        covered[rows, slot] = 1 - fit.mass / np.maximum(in_frame, 1e-6)
    setting = recognition(_setting_distances(styled, _uncovered(drawing, -1)), SETTING_NULL, SETTING_TEMPERATURE)
    setting = setting.reshape(b, len(LOCATIONS), len(STYLES))
    drawing.parts[:] = parts > PRESENT
    distance = np.sqrt(((render(drawing) / 2 + 0.5 - styled) ** 2).mean((1, 2, 3)))
    return Parse(drawing, attributes, visible, actions, parts, cut, covered, setting.sum(2), setting.sum(1), distance)


def _measure_attributes(features, one, fit):
    """How surely each value of each attribute is seen, f32[b, 7, value], and whether it can be, bool[b, 7]."""
    rows, hair, hat = np.arange(len(one)), one.identities[:, 0, _HAIR], one.identities[:, 0, _HAT]
    gains = _head_gains(features, one)
    shapes = {_HAIR: gains[rows, :, hat], _HAT: gains[rows, hair]}
    attributes = np.zeros((len(one), len(ATTRIBUTE_NAMES), max(NUM_VALUES)), np.float32)
    visible = np.zeros(attributes.shape[:2], bool)
    for i, name in enumerate(ATTRIBUTE_NAMES):
        ink = _COLOUR_INKS[ATTRIBUTE_NAMES.index(name if name in PALETTES else f"{name}_colour")]
        if name in PALETTES:
            distances = fit.ink_distances[:, ink, : NUM_VALUES[i]]
        else:
            distances = _relative(shapes[i], fit.part_distance[:, 0], _HEAD_AREA)
        attributes[:, i, : NUM_VALUES[i]] = recognition(distances)
        visible[:, i] = fit.ink_mass[:, ink] > _HIDDEN * fit.ink_full[:, ink]
    return attributes, visible


def _measure_actions(features, one, fit):
    """How surely each pose is seen, f32[b, pose]."""
    hair, hat = (one.identities[:, 0, i, None, None] for i in (_HAIR, _HAT))
    poses, places = _pose_hypotheses(one, np.zeros((1, 2), int))
    gains = _hypotheses_gain(features, poses, hair, hat, places)[..., 0]
    return recognition(_relative(gains, fit.part_distance[:, _LIMBS].mean(-1), _LIMB_AREA))


def _measure_parts(fit):
    """How surely each body part is drawn, f32[b, 6]: it is, unless without it or with nothing the fit is better.

    What is beyond the frame is not drawn; of a part that others cover nothing is known, and it counts as drawn.
    """
    likely = np.exp((np.minimum(fit.part_missing, NULL) - fit.part_distance) / TEMPERATURE)
    return np.where(fit.part_seen > _HIDDEN, np.minimum(likely, 1), 1) * fit.part_inside


def _relative(gains, base, area):
    """Distances of alternatives from their gains: the best one's is `base`, others lose gain over `area` pixels."""
    return base[:, None] + (gains.max(-1, keepdims=True) - gains) / area
