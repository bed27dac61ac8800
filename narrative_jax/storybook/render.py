"""Draws pictures of the world, batched: `Drawing` says in numbers what stands where, `render` paints it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from narrative_jax.storybook import figure, sets
from narrative_jax.storybook.shapes import SUPERSAMPLE
from narrative_jax.storybook.world import (
    ATTRIBUTE_NAMES,
    LOCATIONS,
    PALETTES,
    PORTRAIT_POSE,
    POSES,
    STYLES,
    Facts,
    identity_codes,
)

PORTRAIT_SIZE = 24
_PORTRAIT_PLACE = (12.0, 23.6)  # where the ground point stands in a portrait
_FIXED_INKS = {"shoe": (0.22, 0.16, 0.16), "line": (0.08, 0.05, 0.08), "book": (0.95, 0.50, 0.70)}
_PLAIN_GROUND = 0.96  # of a clean portrait


@dataclass(frozen=True)
class Drawing:
    """What a batch of pictures shows; characters of one picture are ordered from back to front.

    `identities` i[b, c, 7], `poses` i[b, c], `places` f32[b, c, 2] (x, y of the ground point in pixels),
    `parts` bool[b, c, 6] (body parts that are drawn; all false: no such character), `locations` i[b],
    `styles` i[b].
    """

    identities: np.ndarray
    poses: np.ndarray
    places: np.ndarray
    parts: np.ndarray
    locations: np.ndarray
    styles: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """Which characters are there at all, bool[b, c]."""
        return self.parts.any(-1)

    def __len__(self) -> int:
        return len(self.locations)

    def copy(self) -> "Drawing":
        """A drawing with arrays of its own."""
        return Drawing(*(getattr(self, field).copy() for field in self.__dataclass_fields__))

    def __getitem__(self, rows) -> "Drawing":
        return Drawing(*(getattr(self, field)[rows] for field in self.__dataclass_fields__))


def stage(all_facts: Sequence[Facts], rngs: Sequence[np.random.Generator], max_characters: int) -> Drawing:
    """Place the characters of each scene on its set, as the world does it.

    Who stands where from left to right is random; places vary by less than a figure's width, in fractions of
    a pixel, and who stands lower is nearer and drawn in front.
    """
    b = len(all_facts)
    drawing = empty_drawing(b, max_characters)
    for row, (facts, rng) in enumerate(zip(all_facts, rngs, strict=True)):
        count = len(facts.characters)
        places = _places(count, rng)
        for slot, who in enumerate(np.argsort(places[:, 1], kind="stable")):
            drawing.identities[row, slot] = identity_codes(facts.characters[who].attributes)
            drawing.poses[row, slot] = POSES.index(facts.characters[who].action)
            drawing.places[row, slot] = places[who]
        drawing.parts[row, :count] = True
        drawing.locations[row] = list(LOCATIONS).index(facts.location)
        drawing.styles[row] = list(STYLES).index(facts.style)
    return drawing


def empty_drawing(batch: int, max_characters: int) -> Drawing:
    """A drawing of the first location in the first style with nobody in it."""
    shape = (batch, max_characters)
    return Drawing(
        identities=np.zeros((*shape, len(ATTRIBUTE_NAMES)), int),
        poses=np.zeros(shape, int),
        places=np.zeros((*shape, 2), np.float32),
        parts=np.zeros((*shape, len(figure.PARTS)), bool),
        locations=np.zeros(batch, int),
        styles=np.zeros(batch, int),
    )


def _places(count, rng):
    margin = 9.6  # half the width of the widest pose: nobody is cut off
    reach = 7.0 if count == 1 else 1.5
    centres = np.linspace(margin + reach, sets.SIZE - margin - reach, count) if count > 1 else sets.SIZE / 2
    x = centres + rng.uniform(-reach, reach, count)
    y = rng.uniform(35.0, 37.5, count)
    return np.stack([rng.permutation(x), y], -1)


def render(drawing: Drawing) -> np.ndarray:
    """Pictures f32[b, 40, 40, 3] in [-1, 1]."""
    flat = sets.stage_sets()[drawing.locations]
    for slot in range(drawing.poses.shape[1]):
        flat = paint(flat, drawing, slot)
    gains, offsets = sets.styles()
    return 2 * (flat * gains[drawing.styles, None, None] + offsets[drawing.styles]) - 1


def paint(flat: np.ndarray, drawing: Drawing, slot: int) -> np.ndarray:
    """Paint the characters of one slot over `flat` f32[b, h, w, 3] in [0, 1], before any style."""
    colour, alpha = figures(drawing, slot)
    return _blend(flat, colour, alpha, drawing.places[:, slot])


def figures(drawing: Drawing, slot: int) -> tuple[np.ndarray, np.ndarray]:
    """The characters of one slot in their windows: premultiplied colour f32[b, h, w, 3], alpha f32[b, h, w, 1]."""
    visible = layer_visibility(drawing, slot)
    inks = ink_colours(drawing.identities[:, slot])[:, figure.LAYER_INK]
    b, layers, h, w = visible.shape
    colour = (visible.reshape(b, layers, h * w).swapaxes(1, 2) @ inks).reshape(b, h, w, 3)
    return colour, visible.sum(1)[..., None]


def silhouette(drawing: Drawing, slot: int, size: int = sets.SIZE) -> np.ndarray:
    """Share of each pixel of the picture that the characters of one slot cover, f32[b, size, size]."""
    alpha = figures(drawing, slot)[1]
    return _blend(np.zeros((len(drawing), size, size, 1), np.float32), alpha, alpha, drawing.places[:, slot])[..., 0]


def layer_visibility(drawing: Drawing, slot: int) -> np.ndarray:
    """Share of each pixel in which each layer of one slot's characters is seen, f32[b, layer, h, w]."""
    table, index = figure.layer_templates()
    hair, hat = (drawing.identities[:, slot, ATTRIBUTE_NAMES.index(name)] for name in ("hair", "hat"))
    x, y = _sub_pixels(drawing.places[:, slot])
    which = index[drawing.poses[:, slot], hair, hat]
    layers = table[which, (y % SUPERSAMPLE)[:, None], (x % SUPERSAMPLE)[:, None]]
    layers *= drawing.parts[:, slot][:, figure.LAYER_PART, None, None]
    uncovered = np.ones_like(layers[:, 0])
    for layer in reversed(range(layers.shape[1])):
        cover = layers[:, layer].copy()
        layers[:, layer] *= uncovered
        uncovered *= 1 - cover
    return layers


@cache
def ink_palettes() -> np.ndarray:
    """The colours that each ink may have, RGB in [0, 1], f32[ink, value, 3]; an ink's last one fills its row."""
    colours = [list(PALETTES[ink].values()) if ink in PALETTES else [_FIXED_INKS[ink]] for ink in figure.INKS]
    longest = max(map(len, colours))
    return np.float32([values + values[-1:] * (longest - len(values)) for values in colours])


def ink_colours(identities: np.ndarray) -> np.ndarray:
    """The colour of each ink for identities i[b, 7], RGB in [0, 1], f32[b, ink, 3]."""
    values = [
        identities[:, ATTRIBUTE_NAMES.index(ink)] if ink in PALETTES else np.zeros(len(identities), int)
        for ink in figure.INKS
    ]
    return ink_palettes()[np.arange(len(figure.INKS)), np.stack(values, 1)]


def _sub_pixels(places):
    return np.moveaxis(np.round(places * SUPERSAMPLE).astype(int), -1, 0)


def _blend(flat, colour, alpha, places):
    """Lay windows over `flat` with their anchors at `places`; what falls outside is cut off."""
    h, w = figure.HEIGHT, figure.WIDTH
    size = flat.shape[1]
    ground_x, ground_y = (n // SUPERSAMPLE for n in _sub_pixels(places))
    padded = np.pad(flat, ((0, 0), (h, h), (w, w), (0, 0)))
    top = np.clip(ground_y - figure.ANCHOR_Y, -h, size) + h
    left = np.clip(ground_x - figure.ANCHOR_X, -w, size) + w
    at = (
        np.arange(len(flat))[:, None, None],
        (top[:, None] + np.arange(h))[:, :, None],
        (left[:, None] + np.arange(w))[:, None],
    )
    padded[at] = padded[at] * (1 - alpha) + colour
    return padded[:, h : h + size, w : w + size]


def render_portraits(
    identities: np.ndarray, busy: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Portraits u8[n, 24, 24, 3] of identities i[n, 7] and their masks bool[n, 24, 24].

    `busy` bool[n] says which stand before a busy background of random brush strokes instead of a plain one.
    """
    n = len(identities)
    drawing = empty_drawing(n, 1)
    drawing.identities[:, 0] = identities
    drawing.poses[:] = POSES.index(PORTRAIT_POSE)
    drawing.places[:, 0] = np.add(_PORTRAIT_PLACE, rng.uniform(-0.5, 0.5, (n, 2)) * (1, 0.5))
    drawing.parts[:] = True
    ground = np.where(busy[:, None, None, None], _brush_strokes(n, rng), np.float32(_PLAIN_GROUND))
    masks = silhouette(drawing, 0, PORTRAIT_SIZE) > 0.5
    return np.round(paint(ground, drawing, 0) * 255).astype(np.uint8), masks


def _brush_strokes(n, rng, strokes=10):
    """Busy backgrounds f32[n, 24, 24, 3]: discs of random colours."""
    y, x = np.mgrid[:PORTRAIT_SIZE, :PORTRAIT_SIZE]
    ground = np.broadcast_to(rng.random((n, 1, 1, 3), np.float32), (n, PORTRAIT_SIZE, PORTRAIT_SIZE, 3))
    for _ in range(strokes):
        centre = rng.uniform(0, PORTRAIT_SIZE, (2, n, 1, 1))
        radius = rng.uniform(2, 8, (n, 1, 1))
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
        ground = np.where(inside[..., None], rng.random((n, 1, 1, 3), np.float32), ground)
    return ground
