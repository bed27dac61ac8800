"""Evidence: how well a figure explains the pixels of a picture, and how much worse it would with a change.

A hypothesis is a figure (pose, hair, hat) at a place. Its ink masks are known, so how much better than the ground
it explains the pixels follows from a few sums over each mask; the palette colour that gains most is its colour.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from narrative_jax.storybook import figure
from narrative_jax.storybook.render import empty_drawing, ink_colours, ink_palettes, layer_visibility, paint
from narrative_jax.storybook.shapes import SUPERSAMPLE
from narrative_jax.storybook.world import ATTRIBUTE_NAMES, NUM_VALUES, POSES

# Squared colour distances (summed over RGB in [0, 1], averaged over a mask): at the first, nothing is recognised;
# the second is how sharply one value is told from another.
NULL, TEMPERATURE = 0.12, 0.02
STEP = 4  # places are searched to a quarter of a pixel
HAIR, HAT = ATTRIBUTE_NAMES.index("hair"), ATTRIBUTE_NAMES.index("hat")
_HAIRS, _HATS = NUM_VALUES[HAIR], NUM_VALUES[HAT]
_HEIGHT, _WIDTH = figure.HEIGHT, figure.WIDTH
_MARGIN = 24  # round the picture, so that windows may hang over its edge; even, as the coarse search asks


def recognition(distances, null=NULL, temperature=TEMPERATURE):
    """How surely each value on the last axis is seen: a softmax of -distance / temperature with "nothing" at `null`."""
    nearest = np.minimum(distances.min(-1, keepdims=True), null)
    likelihood = np.exp((nearest - distances) / temperature)
    return likelihood / (likelihood.sum(-1, keepdims=True) + np.exp((nearest - null) / temperature))


def squared(vectors):
    """Squared length over the last axis; of three channels, several times as fast as `(v**2).sum(-1)`."""
    return np.einsum("...c,...c->...", vectors, vectors)


@dataclass(frozen=True)
class View:
    """What one figure is read from: `flat` and `ground` f32[b, h, w, 3], the pictures without style and what is
    behind the figure; `weight` f32[b, h, w], where it can be seen.
    """

    flat: np.ndarray
    ground: np.ndarray
    weight: np.ndarray

    def __getitem__(self, rows):
        return View(self.flat[rows], self.ground[rows], self.weight[rows])

    def unexplained(self):
        """Squared distance to the ground, summed over what can be seen, f32[b]: no figure gains more than this."""
        return np.einsum("bhw,bhw->b", squared(self.flat - self.ground), self.weight)

    def features(self):
        """What sums over masks need, weighted by where the figure can be seen; f32[b, 5, H, W], padded.

        With p the picture and g the ground: p (3 channels), |g|² - 2 p·g, 1. A figure of colour c gains
        |p - g|² - |p - c|² = |g|² - 2 p·g + 2 p·c - |c|² in each of its pixels.
        """
        bare = np.einsum("...c,...c->...", self.ground - 2 * self.flat, self.ground)
        features = np.stack([*np.moveaxis(self.flat, -1, 0), bare, np.ones_like(bare)], axis=1)
        return _pad(features * self.weight[:, None])


def _pad(channels):
    b, c, h, w = channels.shape
    padded = np.zeros((b, c, h + 2 * _MARGIN, w + 2 * _MARGIN), np.float32)
    padded[:, :, _MARGIN : _MARGIN + h, _MARGIN : _MARGIN + w] = channels
    return padded


@cache
def _masks():
    """Squared ink masks of every figure at quarter-pixel phases, f32[pose, hair, hat, 4 (y), 4 (x), ink, h · w].

    Squared, so that a pixel that a mask shares with its neighbours counts for little.
    """
    shape = (len(POSES), _HAIRS, _HATS, STEP, STEP)
    pose, hair, hat, y, x = (i.ravel() for i in np.indices(shape))
    drawing = empty_drawing(len(pose), 1)
    drawing.poses[:, 0], drawing.identities[:, 0, HAIR], drawing.identities[:, 0, HAT] = pose, hair, hat
    drawing.places[:, 0] = np.stack([x, y], -1) / STEP
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


def _corner(places):
    """Row and column of the window, in padded features, of a figure whose ground point is at i[..., 2] pixels."""
    return places[..., 1] - figure.ANCHOR_Y + _MARGIN, places[..., 0] - figure.ANCHOR_X + _MARGIN


def hypotheses_gain(features, poses, hairs, hats, places):
    """Gain of hypotheses i[b, m, n], broadcast, at places i[b, m, n, 2] in quarter pixels, f32[b, m, n]."""
    whole, phase = np.divmod(places, STEP)
    masks = _masks()[poses, hairs, hats, phase[..., 1], phase[..., 0]]
    b, m, n = whole.shape[:-1]
    windows = _windows(features, *(i.reshape(b, m * n) for i in _corner(whole)))
    sums = masks @ windows.reshape(b, m, n, *windows.shape[2:]).swapaxes(-1, -2)
    return _gain(np.moveaxis(sums, (-1, -2), (0, 1)), np.arange(len(figure.INKS)))


def coarse_gains(features, places):
    """Gain of every pose at whole-pixel places i[n, 2], at half resolution, f32[b, n, pose]; see `_coarse_masks`."""
    halved = sum(features[:, :, y::2, x::2] for y in (0, 1) for x in (0, 1))
    top, left = (np.broadcast_to(i // 2, (len(features), len(places))) for i in _corner(places))
    return _mask_gains(_windows(halved, top, left, _HEIGHT // 2, _WIDTH // 2), _coarse_masks())


def fine_gains(features, places):
    """Gain of every pose at whole-pixel places i[b, n, 2] and half-pixel phases, f32[b, n, pose, 2 (y), 2 (x)]."""
    return _mask_gains(_windows(features, *_corner(places)), _pose_masks()[0])


def _mask_gains(windows, masks):
    """Gain of figures with masks f32[..., row, h · w] in each window f32[b, n, 5, h · w], f32[b, n, ...]."""
    pixels = masks.shape[-1]
    sums = windows.reshape(-1, pixels) @ masks.reshape(-1, pixels).T
    return _gain(np.moveaxis(sums.reshape(*windows.shape[:3], *masks.shape[:-1]), (2, -1), (0, 1)), _pose_masks()[1])


def _quarters(one):
    return np.round(one.places[:, 0] * STEP).astype(int)


def head_gains(features, one):
    """Gain of each hair and hat on the figure, f32[b, hair, hat]."""
    hair, hat = np.indices((1, _HAIRS, _HATS))[1:]
    return hypotheses_gain(features, one.poses[:, :, None], hair, hat, _quarters(one)[:, None, None])


def pose_hypotheses(one, shifts):
    """Every pose with the head where it is, and places i[b, pose, shift, 2] round that, in quarter pixels."""
    poses = np.arange(len(POSES))[None, :, None]
    head = figure.HEAD_SHIFTS[one.poses] - figure.HEAD_SHIFTS
    return poses, _quarters(one)[:, None, None] + np.round(head * STEP).astype(int)[:, :, None] + shifts


class Fit:
    """How far the picture is from the figure as drawn, and how much farther with one thing in it changed.

    All are squared distances, summed over RGB and averaged over a mask: the residual under the mask, plus what
    the change adds to the residual of the picture, over the mask's mass.
    """

    def __init__(self, view, one):
        painted = paint(view.ground, one, 0)
        inside = np.ones_like(view.weight)
        channels = [view.flat, painted, view.ground, view.weight[..., None], inside[..., None]]
        whole = np.round(one.places * SUPERSAMPLE).astype(int) // SUPERSAMPLE
        cut = _windows(_pad(np.moveaxis(np.concatenate(channels, axis=-1), -1, 1)), *_corner(whole))[:, 0]
        self._flat, painted, self._ground, self._weight, self._inside = np.split(cut, (3, 6, 9, 10), axis=1)
        self._weight, self._inside = self._weight[:, 0], self._inside[:, 0]
        self._residual = self._flat - painted
        self._square = self._weight * (self._residual**2).sum(1)
        self._layers = layer_visibility(one, 0).reshape(len(one), len(figure.LAYERS), -1)
        self._colours = ink_colours(one.identities[:, 0])

    def whole(self):
        """Of the whole figure: its distance, its mass in sight and its mass, f32[b] each."""
        distance, _, mass, _, full = self._without(np.ones(len(figure.LAYERS), bool), power=1)
        return distance, mass, full

    def rivals(self):
        """Distances of what else could explain the figure's pixels: the ground, and one flat colour, f32[b, 2]."""
        _, missing, mass, _, _ = self._without(np.ones(len(figure.LAYERS), bool), power=1)
        weights = (self._layers.sum(1) * self._weight / np.maximum(mass, 1e-6)[:, None])[:, None]
        mean = (self._flat * weights).sum(-1, keepdims=True)
        return np.stack([missing, ((self._flat - mean) ** 2 * weights).sum((1, 2))], axis=-1)

    def parts(self):
        """Of each body part, f32[b, 6] each: its distance, the distance without it, shares in sight and in frame."""
        parts = [self._without(part == figure.LAYER_PART) for part in range(len(figure.PARTS))]
        distance, missing, mass, inside, full = (np.stack(values, axis=1) for values in zip(*parts, strict=True))
        return distance, missing, mass / full, inside / full

    def _without(self, own, power=2):
        """Distances with and without the layers bool[layer], and their mask's mass in sight, in the frame, in all."""
        mask = self._layers[:, own].sum(1)
        weights = mask**power
        mass = (weights * self._weight).sum(-1)
        distance = (weights * self._square).sum(-1) / np.maximum(mass, 1e-6)
        drawn = self._colours[:, figure.LAYER_INK[own]].swapaxes(1, 2) @ self._layers[:, own]
        change = drawn - mask[:, None] * self._ground
        added = (self._weight * (change * (2 * self._residual + change)).sum(1)).sum(-1)
        missing = distance + added / np.maximum(mass, 1e-6)
        return distance, missing, mass, (weights * self._inside).sum(-1), weights.sum(-1)

    def likely_colours(self):
        """The palette colour nearest to most pixels of each ink, i[b, ink], whatever the figure's colours are now.

        Distances are truncated, so that a part which is missing does not draw the colour to that of the ground.
        """
        weights = _ink_masks(self._layers) ** 2 * self._weight[:, None]
        palettes = ink_palettes()
        costs = np.empty((*weights.shape[:2], palettes.shape[1]), np.float32)
        for ink, value in np.ndindex(palettes.shape[:2]):
            distance = ((self._flat - palettes[ink, value, :, None]) ** 2).sum(1)
            costs[:, ink, value] = (weights[:, ink] * np.minimum(distance, NULL)).sum(-1)
        return costs.argmin(-1)

    def inks(self, drawn):
        """Distances of each palette colour of each ink over the parts `drawn` bool[b, 6], f32[b, ink, value].

        Also the share f32[b, ink] of each ink's mask, over all parts, from which they are read.
        """
        masks = _ink_masks(self._layers * drawn[:, figure.LAYER_PART, None])
        mass = np.einsum("bkx,bkx,bx->bk", masks, masks, self._weight)
        residual = np.einsum("bkx,bkx,bx->bk", masks, masks, self._square) / np.maximum(mass, 1e-6)
        pull = (masks * self._weight[:, None]) @ self._residual.swapaxes(1, 2)
        shift = ink_palettes() - self._colours[:, :, None]
        added = (shift**2).sum(-1) - 2 * (shift @ pull[..., None])[..., 0] / np.maximum(mass, 1e-6)[..., None]
        return residual[..., None] + added, mass / np.maximum((_ink_masks(self._layers) ** 2).sum(-1), 1e-6)
