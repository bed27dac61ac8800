"""Preprocessing against PIL and transformers on real photos, against torch without rounding, and its gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float
from narrative_jax.models.preprocessing import (
    CENTRED,
    CLIP,
    IMAGENET,
    grid_corners,
    longest_side_pad,
    normalise,
    patches,
    random_corners,
    resize,
    shortest_side_crop,
)

LEVEL = 2 / 255  # of [-1, 1]
SIZES = [(512, 512), (512, 337), (301, 512), (97, 64), (33, 150)]  # of the pictures, (height, width)


@pytest.fixture(scope="module")
def photos(test_data):
    """One u8[h, w, 3] of each of SIZES, cut out of real photos."""
    files = sorted((test_data / "dreambooth").glob("*/0[1-3].jpg"))[:: 30 // len(SIZES)]
    cut = []
    for file, (height, width) in zip(files, SIZES, strict=False):
        top, left = (512 - height) // 2, (512 - width) // 2
        cut.append(np.asarray(Image.open(file).convert("RGB"))[top : top + height, left : left + width])
    assert [picture.shape[:2] for picture in cut] == SIZES
    return cut


@pytest.fixture(scope="module")
def hard():
    """u8[40, 56, 3] of pure colours side by side: the hardest for filters that overshoot."""
    return np.random.default_rng(0).integers(0, 2, (40, 56, 3), np.uint8) * np.uint8(255)


def unnormalised(values, by):
    """What PIL gave, in [-1, 1], from the normalised NCHW pixels of a processor."""
    return (np.float64(values).transpose(0, 2, 3, 1) * by.deviation + by.mean) * 2 - 1


def torch_resized(picture, height, width, method):
    """In float64: in float32 torch misplaces its filters by up to 2e-5 of a picture's range."""
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(np.float64(picture)).permute(2, 0, 1)[None]
    function = partial(torch.nn.functional.interpolate, size=(height, width), mode=method, antialias=True)
    return function(tensor)[0].permute(1, 2, 0).numpy()


# Resizing


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(224, 224), (100, 333), (600, 512), (7, 9)])
def test_resize_is_pils(photos, hard, method, size):
    for picture in [*photos, hard]:
        filtered = Image.Resampling[method.upper()]
        wide = Image.fromarray(picture).resize((size[1], len(picture)), filtered)
        expected = wide.resize(size[::-1], filtered)  # Pillow 13 turns this order round for some tall pictures
        ours = resize(to_float(picture)[None], *size, method)[0]
        off = np.abs(np.asarray(ours) - to_float(expected)).max() / LEVEL
        assert off < 1.2, f"{picture.shape} to {size}: {off:.3f} levels"


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(224, 224), (100, 333), (600, 512), (7, 9)])
def test_resize_without_rounding_is_torchs(photos, hard, method, size):
    for picture in [*photos, hard]:
        picture = to_float(picture)
        ours = resize(picture[None], *size, method, clip=False)[0]
        np.testing.assert_allclose(ours, torch_resized(picture, *size, method), atol=1e-5)


def test_what_overshoots_is_cut_between_the_passes_too(hard):
    image = to_float(hard)[None]
    free, cut = (np.asarray(resize(image, 90, 130, clip=clip)) for clip in (False, True))
    assert free.max() > 1.2 and free.min() < -1.2
    assert np.abs(cut).max() < 1.001
    assert np.abs(np.clip(free, -1, 1) - cut).max() > 5 * LEVEL  # so cutting once at the end would not be PIL's


def test_resize_to_the_same_size_changes_nothing(photos):
    image = to_float(photos[3])[None]
    np.testing.assert_array_equal(resize(image, *SIZES[3]), image)


def test_unknown_method():
    with pytest.raises(InputError, match="did you mean 'bicubic'"):
        resize(jnp.zeros((1, 4, 4, 3)), 2, 2, "bicubik")


# What the encoders are given


@pytest.mark.parametrize(
    ("processor", "shortest", "by"),
    [("CLIPImageProcessor", 224, CLIP), ("CLIPImageProcessor", 30, CLIP), ("BitImageProcessor", 256, IMAGENET)],
)
def test_shortest_side_crop_is_transformers(photos, processor, shortest, by):
    transformers = pytest.importorskip("transformers")
    crop = 224 if shortest > 224 else shortest
    reference = getattr(transformers, processor)(
        size={"shortest_edge": shortest},
        crop_size={"height": crop, "width": crop},
        image_mean=by.mean,
        image_std=by.deviation,
    )
    for photo in photos:
        theirs = reference(Image.fromarray(photo), return_tensors="np")["pixel_values"]
        ours = normalise(shortest_side_crop(to_float(photo)[None], shortest, crop), by)
        assert ours.shape == (1, crop, crop, 3)
        difference = unnormalised(np.asarray(ours).transpose(0, 3, 1, 2), by) - unnormalised(theirs, by)
        assert np.abs(difference).max() / LEVEL < 1.2, photo.shape


def test_the_default_processors_are_clips(photos):
    """Mean, deviation, sizes and filter are those that transformers has for CLIP."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPImageProcessor()(Image.fromarray(photos[1]), return_tensors="np")["pixel_values"]
    ours = normalise(shortest_side_crop(to_float(photos[1])[None], 224, 224), CLIP)
    np.testing.assert_allclose(np.asarray(ours).transpose(0, 3, 1, 2), theirs, atol=1.2 / 255 / min(CLIP.deviation))


def test_a_crop_that_does_not_fit():
    with pytest.raises(InputError, match="a crop of 225 from a shortest side of 224: crop ≤ shortest"):
        shortest_side_crop(jnp.zeros((1, 300, 300, 3)), 224, 225)


@pytest.mark.parametrize("size", [224, 31])
def test_longest_side_pad_is_hps_v2s(photos, size):
    """Recomputed from its published steps: [0, 1] floats, bicubic, symmetric black padding, CLIP's normalisation."""
    for photo in photos:
        scale = size / float(max(photo.shape[:2]))
        height, width = round(photo.shape[0] * scale), round(photo.shape[1] * scale)
        canvas = np.zeros((size, size, 3))
        top, left = (size - height) // 2, (size - width) // 2
        resized = torch_resized(np.float64(photo) / 255, height, width, "bicubic")
        canvas[top : top + height, left : left + width] = resized
        ours = normalise(longest_side_pad(to_float(photo)[None], size), CLIP)[0]
        np.testing.assert_allclose(ours, (canvas - CLIP.mean) / CLIP.deviation, atol=1e-5)


def test_padding_is_black_and_the_odd_pixel_lies_below():
    """3 × 8 into 8 × 8: five rows are missing, two of them above; at 8 pixels nothing is resized."""
    padded = longest_side_pad(jnp.ones((1, 3, 8, 3)), 8)[0, :, 0, 0]
    np.testing.assert_array_equal(padded, [-1, -1, 1, 1, 1, -1, -1, -1])
    np.testing.assert_allclose(normalise(jnp.full((1, 1, 1, 3), -1.0), CLIP)[0, 0, 0, 0], -0.48145466 / 0.26862954)


def test_normalise_golden():
    image = jnp.float32([-1, 0, 1]).reshape(1, 1, 1, 3)
    expected = [-0.485 / 0.229, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(normalise(image, IMAGENET).ravel(), expected, rtol=1e-5)
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 256, 1).repeat(3, 3)
    centred = (np.float32(levels) - 127.5) / 127.5
    np.testing.assert_allclose(normalise(to_float(levels), CENTRED), centred, atol=1e-6)


# Patches


def test_grid_corners():
    np.testing.assert_array_equal(grid_corners(5, 7, 3, 2), [[0, 0], [0, 2], [0, 4], [2, 0], [2, 2], [2, 4]])
    assert len(grid_corners(512, 512, 224, 112)) == 9


def test_random_corners_reach_both_ends():
    corners = np.asarray(random_corners(jax.random.key(0), 500, 6, 4, 3))
    assert set(corners[:, 0]) == {0, 1, 2, 3} and set(corners[:, 1]) == {0, 1}


def test_patches_correspond():
    images = jnp.arange(2 * 5 * 7 * 3, dtype=jnp.float32).reshape(2, 5, 7, 3)
    corners = grid_corners(5, 7, 3, 2)
    cut = patches(images, corners, 3)
    assert cut.shape == (2, 6, 3, 3, 3)
    for n, (top, left) in enumerate(corners):
        np.testing.assert_array_equal(cut[:, n], images[:, top : top + 3, left : left + 3])


@pytest.mark.parametrize(
    "cut",
    [
        lambda: grid_corners(20, 15, 16, 8),
        lambda: random_corners(jax.random.key(0), 2, 20, 15, 16),
        lambda: patches(jnp.zeros((1, 20, 15, 3)), np.zeros((1, 2)), 16),
    ],
)
def test_pictures_smaller_than_a_patch(cut):
    with pytest.raises(InputError, match="patches of 16 from pictures of 20 × 15: a patch lies within its picture"):
        cut()


# Gradients

CHAINS = {
    "clip": lambda x: normalise(shortest_side_crop(x, 6, 5), CLIP),
    "bilinear": lambda x: normalise(resize(x, 4, 9, "bilinear"), IMAGENET),
    "hps": lambda x: normalise(longest_side_pad(x, 5), CLIP),
    "patches": lambda x: patches(resize(x, 6, 6), grid_corners(6, 6, 4, 2), 4),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_gradients_are_those_of_finite_differences(chain):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        image, direction = rng.uniform(-0.6, 0.6, (1, 8, 11, 3)), rng.normal(size=(1, 8, 11, 3))

        @jax.jit
        def value(x):
            return jnp.square(CHAINS[chain](x)).sum()

        slope = float((jax.jit(jax.grad(value))(image) * direction).sum())
        step = 1e-5
        expected = float(value(image + step * direction) - value(image - step * direction)) / (2 * step)
    assert slope == pytest.approx(expected, rel=1e-3) and abs(slope) > 1e-3


@pytest.mark.parametrize("chain", CHAINS)
def test_jitted_equals_eager(chain):
    image = jnp.float32(np.random.default_rng(0).uniform(-1, 1, (2, 8, 11, 3)))
    np.testing.assert_allclose(jax.jit(CHAINS[chain])(image), CHAINS[chain](image), atol=1e-5)


def test_white_has_the_gradient_of_grey():
    """A white ground lies at the limit to which overshoot is cut, and must still be able to darken."""
    slope = jax.jit(jax.grad(lambda x: resize(x, 24, 31).sum()))
    slopes = [slope(jnp.full((1, 50, 70, 3), grey)) for grey in (1.0, 0.2, -1.0)]
    np.testing.assert_allclose(slopes[0], slopes[1], atol=1e-6)
    np.testing.assert_allclose(slopes[2], slopes[1], atol=1e-6)
    assert slopes[1].min() > 0.01
