import numpy as np
import pytest

from narrative_jax.storybook.datasets import drawings
from narrative_jax.storybook.render import (
    PORTRAIT_SIZE,
    Drawing,
    empty_drawing,
    paint,
    render,
    render_portraits,
    silhouette,
)
from narrative_jax.storybook.sets import SIZE, stage_sets, styles
from narrative_jax.storybook.shapes import coverage, coverage_phases, disc, polygon, rectangle
from narrative_jax.storybook.world import ATTRIBUTES, LOCATIONS, NUM_VALUES, POSES, STYLES


def one_figure(x=20.0, y=36.0):
    drawing = empty_drawing(1, 1)
    drawing.places[:] = x, y
    drawing.parts[:] = True
    return drawing


def test_coverage_of_known_areas():
    assert coverage([rectangle(1, 1, 3.5, 3)], 6, 6).sum() == pytest.approx(5.0)
    assert coverage([disc(8, 8, 5)], 16, 16).sum() == pytest.approx(np.pi * 25, rel=0.01)
    assert coverage([polygon((0, 0), (0, 8), (8, 0))], 8, 8).sum() == pytest.approx(32, rel=0.02)


def test_phases_are_shifts_by_eighths_of_a_pixel():
    phases = coverage_phases([rectangle(2, 2, 4, 5)], 8, 8, (0, 0))
    for dy, dx in ((0, 0), (3, 5), (7, 1)):
        shifted = coverage([rectangle(2 + dx / 8, 2 + dy / 8, 4 + dx / 8, 5 + dy / 8)], 8, 8)
        np.testing.assert_allclose(phases[dy, dx], shifted, atol=1e-6)


def test_pictures_are_floats_in_range():
    _, drawing = drawings("train", range(64))
    pictures = render(drawing)
    assert pictures.shape == (64, SIZE, SIZE, 3)
    assert pictures.dtype == np.float32
    assert pictures.min() >= -1 and pictures.max() <= 1


def test_an_empty_drawing_is_the_set_in_its_style():
    drawing = empty_drawing(len(LOCATIONS) * len(STYLES), 2)
    drawing.locations[:], drawing.styles[:] = np.divmod(np.arange(len(drawing)), len(STYLES))
    gains, offsets = styles()
    expected = stage_sets()[:, None] * gains[:, None, None] + offsets
    np.testing.assert_allclose(render(drawing).reshape(expected.shape) / 2 + 0.5, expected, atol=1e-6)


def test_sub_pixel_moves_change_the_picture_a_little():
    still, near, far = (render(one_figure(x)) for x in (20.0, 20.125, 21.0))
    small, large = (np.abs(other - still).mean() for other in (near, far))
    assert 0 < small < large / 4


def test_who_stands_in_front_covers():
    drawing = empty_drawing(2, 2)
    drawing.parts[:] = True
    drawing.places[:, :] = 20.0, 36.0
    drawing.identities[0, 1] = drawing.identities[1, 0] = np.array(NUM_VALUES) - 1
    first, second = render(drawing)
    alone = drawing[[0]]
    alone.parts[:, 0] = False
    covered = silhouette(alone, 1)[0] > 0.99
    np.testing.assert_allclose(first[covered], render(alone)[0][covered], atol=0.03)
    assert np.abs(first - second).max() > 0.5


def test_a_figure_fits_its_window_in_every_pose():
    table = {}
    for pose in range(len(POSES)):
        for hair in range(4):
            for hat in range(4):
                drawing = one_figure(19.9, 35.9)
                drawing.poses[:] = pose
                drawing.identities[..., 1], drawing.identities[..., 3] = hair, hat
                table[pose, hair, hat] = silhouette(drawing, 0)[0]
    reach = np.max(list(table.values()), axis=0)
    assert reach[:, :10].max() == 0 and reach[:, 30:].max() == 0 and reach[:8].max() == 0
    looks = np.stack([s.ravel() for s in table.values()])
    distances = np.abs(looks[:, None] - looks[None]).sum(-1)
    assert distances[~np.eye(len(looks), dtype=bool)].min() > 2, "every pose, hair and hat has a shape of its own"


def test_every_attribute_value_is_visible():
    base = one_figure()
    for i, values in enumerate(ATTRIBUTES.values()):
        pictures = []
        for value in range(len(values)):
            drawing = base.copy()
            drawing.identities[..., i] = value
            pictures.append(render(drawing)[0])
        for a in range(len(values)):
            for b in range(a):
                changed = np.abs(pictures[a] - pictures[b]).max(-1) > 0.2
                assert changed.sum() >= 6, (list(ATTRIBUTES)[i], a, b)


def test_cut_off_at_the_frame():
    whole, half, gone = (silhouette(one_figure(x), 0).sum() for x in (20, 0, -30))
    assert 0.3 < half / whole < 0.7
    assert gone == 0


def test_undrawn_parts_show_what_is_behind():
    drawing = one_figure()
    drawing.parts[:] = False
    np.testing.assert_array_equal(paint(stage_sets()[:1], drawing, 0), stage_sets()[:1])


def test_portraits():
    identities = np.zeros((64, 7), int)
    busy = np.arange(64) % 2 == 1
    portraits, masks = render_portraits(identities, busy, np.random.default_rng(0))
    assert portraits.shape == (64, PORTRAIT_SIZE, PORTRAIT_SIZE, 3) and portraits.dtype == np.uint8
    assert masks.shape == portraits.shape[:3] and masks.dtype == bool
    grounds = [portrait[~mask] for portrait, mask in zip(portraits, masks, strict=True)]
    spread = np.array([np.median(np.abs(g - np.median(g, axis=0)).sum(-1)) for g in grounds])
    assert spread[~busy].max() == 0 and np.median(spread[busy]) > 50
    assert 0.25 < masks.mean() < 0.5, "the whole figure is in the picture"


def test_drawings_can_be_taken_apart():
    _, drawing = drawings("train", range(6))
    assert isinstance(drawing[2:4], Drawing) and len(drawing[[1, 3]]) == 2
    np.testing.assert_array_equal(render(drawing[[4]])[0], render(drawing)[4])
