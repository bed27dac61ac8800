"""Supersampled shapes: the brush that draws figures and stage sets."""

import numpy as np

SUPERSAMPLE = 8  # samples a pixel and axis; figures are placed on this grid, an eighth of a pixel


def capsule(x0, y0, x1, y1, radius):
    """A thick line from (x0, y0) to (x1, y1) with round ends; a disc where both points are one (pixels)."""

    def inside(x, y):
        dx, dy = x1 - x0, y1 - y0
        length2 = dx * dx + dy * dy
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / length2, 0, 1) if length2 else 0.0
        return (x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2 <= radius**2

    return inside


def disc(x, y, radius):
    """A filled circle."""
    return capsule(x, y, x, y, radius)


def polygon(*points):
    """A filled convex polygon; points (x, y) in order, either way round."""

    def inside(x, y):
        sides = [
            (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
            for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True)
        ]
        return np.all([s >= 0 for s in sides], axis=0) | np.all([s <= 0 for s in sides], axis=0)

    return inside


def rectangle(x0, y0, x1, y1):
    """A filled rectangle with sides along the axes."""
    return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def dome(x, y, radius):
    """The upper half of a disc."""
    angles = np.linspace(0, np.pi, 25)
    return polygon(*zip(x + radius * np.cos(angles), y - radius * np.sin(angles), strict=True))


def coverage(shapes, height, width, origin=(0.0, 0.0)):
    """Share of each pixel that the union of `shapes` covers, f32[height, width]; `origin` is their (0, 0)."""
    return (
        _samples(shapes, height, width, origin)
        .reshape(height, SUPERSAMPLE, width, SUPERSAMPLE)
        .mean((1, 3), dtype=np.float32)
    )


def coverage_phases(shapes, height, width, origin):
    """`coverage` for each shift of the shapes right and down by eighths of a pixel, f32[8 (y), 8 (x), h, w]."""
    fine = np.pad(_samples(shapes, height, width, origin), ((SUPERSAMPLE, 0), (SUPERSAMPLE, 0)))
    sums = np.pad(fine.cumsum(0, dtype=np.int32).cumsum(1), ((1, 0), (1, 0)))
    edges = SUPERSAMPLE * (1 + np.arange(height + 1)), SUPERSAMPLE * (1 + np.arange(width + 1))
    phases = [
        [np.diff(np.diff(sums[np.ix_(edges[0] - dy, edges[1] - dx)], axis=0), axis=1) for dx in range(SUPERSAMPLE)]
        for dy in range(SUPERSAMPLE)
    ]
    return np.asarray(phases, np.float32) / SUPERSAMPLE**2


def _samples(shapes, height, width, origin):
    x = (np.arange(width * SUPERSAMPLE) + 0.5) / SUPERSAMPLE - origin[0]
    y = (np.arange(height * SUPERSAMPLE)[:, None] + 0.5) / SUPERSAMPLE - origin[1]
    return np.any([np.broadcast_to(shape(x, y), np.broadcast_shapes(x.shape, y.shape)) for shape in shapes], axis=0)
