"""Similarity transforms are recovered, warps are exact where pictures are linear, and differentiable."""

import jax
import numpy as np
import pytest

from narrative_jax.models.face_alignment import BLACK, TEMPLATE, align_faces, similarity, warp


def transform(degrees, scale, shift):
    """A known similarity f64[2, 3]."""
    turn = np.exp(1j * np.deg2rad(degrees)) * scale
    return np.array([[turn.real, -turn.imag, shift[0]], [turn.imag, turn.real, shift[1]]])


KNOWN = np.stack(
    [transform(0, 1, (0, 0)), transform(33, 0.6, (15, 2)), transform(-120, 2.5, (10, 45)), transform(180, 1, (50, 45))]
)


def move(points, matrix):
    return points @ matrix[..., :2].swapaxes(-1, -2) + matrix[..., None, :, 2]


def test_a_known_similarity_is_recovered():
    points = np.random.default_rng(0).uniform(0, 100, (4, 5, 2))
    found = jax.jit(similarity)(points.astype(np.float32), move(points, KNOWN).astype(np.float32))
    np.testing.assert_allclose(found[..., :2], KNOWN[..., :2], atol=1e-5)
    np.testing.assert_allclose(found[..., 2], KNOWN[..., 2], atol=1e-3)  # of points up to 250 pixels away
    assert np.abs(found - KNOWN).max() / np.abs(KNOWN).max() <= 1e-5


@pytest.mark.parametrize("mirror", [1, -1])
def test_noisy_landmarks_are_fitted_by_least_squares(mirror):
    rng = np.random.default_rng(1)
    source = TEMPLATE * [mirror, 1] + rng.normal(scale=9, size=(5, 2))
    x, y, zeros, ones = *source.T, np.zeros(5), np.ones(5)
    # u = cos x - sin y + a and v = sin x + cos y + b, in the unknowns cos, sin, a, b: reflections are not among them.
    rows = np.concatenate([np.stack([x, -y, ones, zeros], -1), np.stack([y, x, zeros, ones], -1)])
    (cos, sin, a, b), *_ = np.linalg.lstsq(rows, TEMPLATE.T.reshape(-1).astype(float))
    found = similarity(source.astype(np.float32), TEMPLATE)
    np.testing.assert_allclose(found, [[cos, -sin, a], [sin, cos, b]], rtol=1e-4, atol=1e-4)


SLOPES = np.array([[0.011, -0.004], [-0.006, 0.009], [0.002, 0.003]])  # of three channels along x and y


def ramp(points):
    return points @ SLOPES.T - 0.3


def pixels(height, width):
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(float)


def sources(matrix, size):
    """Where the pixels of a warped picture come from, f64[size, size, 2]."""
    return (pixels(size, size) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


@pytest.mark.parametrize("matrix", KNOWN)
def test_a_warped_ramp_is_exact(matrix):
    image = ramp(pixels(50, 61)).astype(np.float32)
    warped = jax.jit(warp, static_argnums=2)(image[None], matrix[None].astype(np.float32), 40)[0]
    points = sources(matrix, 40)
    inside = ((points >= 0.01) & (points <= [59.99, 48.99])).all(-1)
    outside = ((points <= -1.01) | (points >= [61.01, 50.01])).any(-1)
    assert inside.sum() > 30
    np.testing.assert_allclose(warped[inside], ramp(points[inside]), atol=1e-5)
    np.testing.assert_allclose(warped[outside], BLACK, atol=1e-6)


def test_beyond_the_edge_is_black():
    warped = warp(np.ones((1, 3, 3, 3), np.float32), transform(0, 1, (1.5, 0))[None].astype(np.float32), 4)
    np.testing.assert_allclose(warped[0, :, :, 1], [[-1, 0, 1, 1]] * 3 + [[-1] * 4], atol=1e-6)


@pytest.mark.parametrize("size", [112, 40])
def test_faces_are_aligned_to_the_template(size):
    matrices = np.stack([transform(20, 0.9, (20, -5)), transform(-35, 1.3, (-10, 40))])  # picture to template
    back = [np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2] for matrix in matrices]
    landmarks = np.stack([move(TEMPLATE.astype(float), matrix) for matrix in back])
    images = np.stack([ramp(pixels(130, 120))] * 2).astype(np.float32)
    aligned = align_faces(images, landmarks.astype(np.float32), size)
    assert aligned.shape == (2, size, size, 3)
    for face, matrix in zip(aligned, matrices, strict=True):
        points = sources(matrix * size / 112, size)
        inside = ((points >= 0.01) & (points <= [118.99, 128.99])).all(-1)
        assert inside.mean() > 0.5
        np.testing.assert_allclose(face[inside], ramp(points[inside]), atol=1e-4)


def test_gradients_reach_the_picture():
    rng = np.random.default_rng(3)
    images, step = rng.normal(size=(2, 2, 9, 8, 3)).astype(np.float32)
    towards = rng.normal(size=(2, 12, 12, 3)).astype(np.float32)
    matrices = np.stack([transform(25, 1.1, (2, -1)), transform(-70, 0.8, (3, 6))]).astype(np.float32)

    def loss(images):
        return (warp(images, matrices, 12) * towards).sum()

    gradient = jax.grad(loss)(images)
    assert np.abs(gradient).max() > 0.1
    np.testing.assert_allclose((gradient * step).sum(), loss(images + step) - loss(images), rtol=1e-3)  # it is linear
