"""Faces whose landmarks a scene gives, cut out and turned upright as ArcFace's networks want them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float
from narrative_jax.core.records import Scene
from narrative_jax.models.face_alignment import TEMPLATE, TEMPLATE_SIZE, align_faces
from narrative_jax.models.preprocessing import module_of
from narrative_jax.statistics.matching import MAX_CHARACTERS


class Faces(NamedTuple):
    """`landmarks` f32[b, n, 5, 2] of a picture's faces, as `Scene.faces`; `there` bool[b, n] (False: padding)."""

    landmarks: np.ndarray
    there: np.ndarray


def faces_of(scenes: Sequence[Scene]) -> Faces:
    """Where the faces of the scenes' pictures are.

    Raises InputError where nobody says so, of a picture or of a subject's images, and for more than can be matched.
    """
    landmarks = np.tile(TEMPLATE / TEMPLATE_SIZE, (len(scenes), MAX_CHARACTERS, 1, 1))  # padding that can be aligned
    there = np.zeros(landmarks.shape[:2], bool)
    for row, scene in enumerate(scenes):
        if scene.faces is None or any(subject.landmarks is None for subject in scene.subjects):
            rule = "its picture and its subject images need the landmarks of their faces"
            raise InputError(f"scene {scene.id!r}", rule, "give them, or set landmarks=False to compare regions")
        count = len(scene.faces)
        if count > MAX_CHARACTERS:
            rule = f"up to {MAX_CHARACTERS} are matched"
            raise InputError(f"scene {scene.id!r} with {count} faces", rule, "keep the landmarks of the largest")
        landmarks[row, :count], there[row, :count] = scene.faces, True
    return Faces(landmarks, there)


def aligned(images: jax.Array, landmarks: jax.Array, side: int) -> jax.Array:
    """The faces f32[b, n, side, side, 3] of pictures f32[b, h, w, 3], with landmarks f32[b, n, 5, 2] in shares."""
    height, width = images.shape[1:3]
    pixels = landmarks * np.float32([width, height]) - 0.5  # a share of 0 is the edge of the first pixel
    return module_of(images).stack([align_faces(images, points, side) for points in pixels.swapaxes(0, 1)], 1)


def reference_faces(images: np.ndarray, landmarks: np.ndarray, side: int) -> np.ndarray:
    """The face of each of a subject's images u8[n, h, w, 3], with landmarks f32[n, 5, 2]: f32[n, side, side, 3]."""
    return np.asarray(aligned(to_float(images), landmarks[:, None], side))[:, 0]
