"""Faces turned, scaled and shifted to where ArcFace's networks expect them, by five landmarks.

Points are (x, y) in pixels, the middle of the first pixel at (0, 0); landmarks come in the order left eye, right eye,
nose, left and right corner of the mouth, left and right as the viewer sees them.
"""

from functools import partial

import jax
import numpy as np
import scipy.ndimage
from jax.scipy.ndimage import map_coordinates

from narrative_jax.models.preprocessing import module_of

# Where the landmarks of an aligned face lie in a picture of 112 × 112 pixels (insightface).
TEMPLATE = np.float32(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
TEMPLATE_SIZE = 112
BLACK = -1.0


def align_faces(images: jax.Array, landmarks: jax.Array, size: int = TEMPLATE_SIZE) -> jax.Array:
    """Aligned faces f32[b, size, size, 3] of images f32[b, h, w, 3] in [-1, 1] with `landmarks` f32[b, 5, 2]."""
    return warp(images, similarity(landmarks, TEMPLATE * (size / TEMPLATE_SIZE)), size)


def similarity(source: jax.Array, target: jax.Array) -> jax.Array:
    """The turn, scale and shift f32[..., 2, 3] that takes points f32[..., n, 2] nearest to `target`, by least squares.

    As Umeyama's (1991), without reflection: in the plane, points are complex numbers and the transform is linear in
    them. Not finite where all points of `source` coincide.
    """
    module = module_of(source)
    source_mean, target_mean = source.mean(-2, keepdims=True), target.mean(-2, keepdims=True)
    (x, y), (u, v) = (module.moveaxis(points, -1, 0) for points in (source - source_mean, target - target_mean))
    spread = (x * x + y * y).sum(-1)
    cos, sin = (x * u + y * v).sum(-1) / spread, (x * v - y * u).sum(-1) / spread
    turn = module.stack([module.stack([cos, -sin], -1), module.stack([sin, cos], -1)], -2)
    shift = target_mean[..., 0, :] - (turn * source_mean).sum(-1)
    return module.concatenate([turn, shift[..., None]], -1)


def warp(images: jax.Array, transforms: jax.Array, size: int) -> jax.Array:
    """Pictures f32[b, size, size, 3] that show each point of `images` where its transform f32[b, 2, 3] takes it.

    Bilinear, black beyond the edges, and differentiable in the images and the transforms (but NumPy's, on the host).
    """
    module, on_host = module_of(images), isinstance(images, np.ndarray)
    sample = partial(scipy.ndimage.map_coordinates, mode="grid-constant") if on_host else map_coordinates
    rows, columns = np.indices((size, size), np.float32)
    points = np.stack([columns, rows]).reshape(2, -1)

    def one(image, transform):
        back = module.linalg.inv(transform[:, :2])
        # no matmul: in bfloat16, some accelerators' default, it would miss pixels
        x, y = (back[:, :, None] * (points - transform[:, 2:])).sum(1)
        channels = [sample(image[..., channel], [y, x], order=1, cval=BLACK) for channel in range(3)]
        return module.stack(channels, -1).reshape(size, size, 3)

    return np.stack(list(map(one, images, transforms))) if on_host else jax.vmap(one)(images, transforms)
