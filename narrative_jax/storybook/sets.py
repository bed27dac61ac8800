"""The stage sets: one painted flat for each location, and the look that each style gives a picture."""

from functools import cache

import numpy as np

from narrative_jax.storybook.shapes import coverage, disc, dome, polygon, rectangle
from narrative_jax.storybook.world import LOCATIONS, STYLES

SIZE = 40  # pixels a side

_STONE, _PANE = (0.66, 0.64, 0.70), (0.44, 0.44, 0.54)
_FIR, _SNOW = (0.27, 0.47, 0.35), (0.95, 0.97, 1.00)


def _fir(x, top, foot, width):
    return [polygon((x - width, y + 6), (x + width, y + 6), (x, y)) for y in np.linspace(top, foot - 6, 3)]


def _house(x, y, width, roof):
    return [rectangle(x, y, x + width, 30)], [polygon((x - 1, y), (x + width + 1, y), (x + width / 2, y - roof))]


def _windows(*places):
    return [rectangle(x, y, x + 2, y + 2.6) for x, y in places]


def _town():
    (red, red_roof), (gold, gold_roof), (blue, blue_roof) = (
        _house(-1, 14, 12, 6),
        _house(13, 11, 12, 5),
        _house(27, 15, 14, 7),
    )
    return [
        ((0.97, 0.88, 0.76), [rectangle(0, 0, 40, 40)]),
        ((0.80, 0.56, 0.47), red),
        ((0.52, 0.34, 0.32), red_roof + blue_roof),
        ((0.91, 0.79, 0.57), gold),
        ((0.62, 0.42, 0.34), gold_roof),
        ((0.66, 0.71, 0.80), blue),
        (
            _PANE,
            _windows(
                (2, 17), (7, 17), (2, 23), (7, 23), (15, 14), (21, 14), (15, 20), (21, 20), (30, 18), (35, 18), (30, 24)
            ),
        ),
        ((0.70, 0.67, 0.66), [rectangle(0, 29.5, 40, 40)]),
    ]


def _library():
    book_inks = ((0.70, 0.38, 0.34), (0.42, 0.52, 0.60), (0.80, 0.68, 0.42), (0.45, 0.55, 0.43))
    books = [
        (
            ink,
            [
                rectangle(x, y + (x * 7 + y) % 3 * 0.6, x + 1.6, y + 6)
                for y in (3, 11, 19)
                for x in range(2 + 2 * i, 38, 8)
            ],
        )
        for i, ink in enumerate(book_inks)
    ]
    return [
        ((0.86, 0.77, 0.62), [rectangle(0, 0, 40, 40)]),
        *books,
        ((0.60, 0.45, 0.32), [rectangle(0, y, 40, y + 1.2) for y in (1, 9, 17, 25)] + [rectangle(0, 1, 1.4, 30)]),
        ((0.66, 0.50, 0.37), [rectangle(0, 30, 40, 40)]),
        ((0.80, 0.55, 0.50), [polygon((3, 33), (37, 33), (40, 39.5), (0, 39.5))]),
    ]


# For each location, from back to front: a colour and the shapes painted in it.
_PAINTINGS = {
    "beach": [
        ((0.70, 0.88, 0.96), [rectangle(0, 0, 40, 40)]),
        ((1.00, 0.95, 0.68), [disc(33, 7, 4)]),
        ((0.38, 0.66, 0.80), [rectangle(0, 16, 40, 40)]),
        ((0.97, 0.96, 0.92), [polygon((8, 17), (8, 8), (14, 17)), polygon((7, 17), (7, 10), (3.5, 17))]),
        ((0.55, 0.42, 0.36), [polygon((3, 18), (15, 18), (12, 20.5), (5, 20.5))]),
        (
            (0.64, 0.83, 0.90),
            [rectangle(18, 20, 30, 20.8), rectangle(4, 23.4, 16, 24.2), rectangle(26, 24.4, 38, 25.2)],
        ),
        ((0.95, 0.87, 0.68), [rectangle(0, 28, 40, 40)]),
    ],
    "forest": [
        ((0.80, 0.91, 0.82), [rectangle(0, 0, 40, 40)]),
        ((0.55, 0.73, 0.58), _fir(10, 5, 30, 5) + _fir(29, 3, 30, 5) + _fir(20, 8, 30, 4)),
        (_FIR, _fir(3, 6, 30, 6) + _fir(37, 7, 30, 6)),
        ((0.56, 0.70, 0.42), [rectangle(0, 28.5, 40, 40)]),
        ((0.69, 0.80, 0.50), [dome(9, 40, 7), dome(30, 40, 6)]),
    ],
    "castle": [
        ((0.84, 0.82, 0.94), [rectangle(0, 0, 40, 40)]),
        (_STONE, [rectangle(9, 13, 31, 31), rectangle(4, 7, 12, 31), rectangle(28, 7, 36, 31)]),
        (_STONE, [rectangle(x, 11, x + 2, 14) for x in range(13, 28, 4)]),
        ((0.78, 0.45, 0.44), [polygon((3, 7.5), (13, 7.5), (8, 0.5)), polygon((27, 7.5), (37, 7.5), (32, 0.5))]),
        (_PANE, [rectangle(7, 10, 9, 14), rectangle(31, 10, 33, 14), dome(20, 23, 4), rectangle(16, 23, 24, 31)]),
        ((0.67, 0.76, 0.54), [rectangle(0, 29.5, 40, 40)]),
        ((0.85, 0.79, 0.66), [polygon((16, 29.5), (24, 29.5), (30, 40), (10, 40))]),
    ],
    "town": _town(),
    "mountains": [
        ((0.66, 0.80, 0.95), [rectangle(0, 0, 40, 40)]),
        ((0.56, 0.62, 0.76), [polygon((-6, 30), (22, 30), (8, 5)), polygon((14, 30), (48, 30), (30, 2))]),
        (_SNOW, [polygon((3.6, 13), (12.4, 13), (8, 5)), polygon((23.6, 13), (37.0, 13), (30, 2))]),
        (_SNOW, [disc(14, 7, 1.8), disc(16.5, 6.4, 2.2), disc(19, 7, 1.6)]),
        (_FIR, _fir(20, 18, 30, 3)),
        ((0.90, 0.93, 0.98), [rectangle(0, 29, 40, 40)]),
        ((0.80, 0.86, 0.95), [polygon((0, 36), (40, 32), (40, 34), (0, 39))]),
    ],
    "library": _library(),
}


@cache
def stage_sets() -> np.ndarray:
    """The painted flats before any style, RGB in [0, 1], f32[location, h, w, 3]."""
    flats = []
    for location in LOCATIONS:
        flat = np.zeros((SIZE, SIZE, 3), np.float32)
        for ink, shapes in _PAINTINGS[location]:
            alpha = coverage(shapes, SIZE, SIZE)[..., None]
            flat = flat * (1 - alpha) + alpha * np.float32(ink)
        flats.append(flat)
    return np.stack(flats)


def _hatching() -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.where((x + y) % 4 < 2, 0.09, -0.09)[..., None]


# A style is affine in the colour: picture = flat · gain + offset, both broadcast to [h, w, 3].
_GAINS_OFFSETS = {
    "gouache": (1.0, 0.0),
    "pastel": (0.55, 0.42),
    "moonlight": ((0.70, 0.74, 0.82), (0.02, 0.04, 0.14)),
    "crayon": (0.82, 0.09 + _hatching()),
}


@cache
def styles() -> tuple[np.ndarray, np.ndarray]:
    """Gains f32[style, 3] and offsets f32[style, h, w, 3]: a picture is flat · gain + offset."""
    gains = np.stack([np.broadcast_to(np.float32(_GAINS_OFFSETS[s][0]), 3) for s in STYLES])
    offsets = np.stack([np.broadcast_to(np.float32(_GAINS_OFFSETS[s][1]), (SIZE, SIZE, 3)) for s in STYLES])
    return gains, offsets
