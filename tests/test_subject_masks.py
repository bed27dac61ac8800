"""Subjects that people have cut out: transparency is their mask, and changes nothing of how they look."""

import json

import numpy as np
import pytest
from PIL import Image

from narrative_jax.core.images import fit_image
from narrative_jax.core.records import Scene
from narrative_jax.data.backgrounds import GivenMasks, on_white, unfit
from narrative_jax.data.datasets import open_records, write_records
from narrative_jax.data.photos import PHOTO_SIDE, read_photo
from narrative_jax.data.sources import read_scenes

RED = (200, 30, 30)


def cut_out(path, opacity, **options):
    """A red picture of an opacity u8[h, w]."""
    picture = Image.new("RGB", opacity.shape[::-1], RED)
    picture.putalpha(Image.fromarray(opacity))
    picture.save(path, **options)


def disc(height, width, opacity=255):
    y, x = np.ogrid[:height, :width]
    return np.where((y - height / 2) ** 2 + (x - width / 3) ** 2 < (height / 3) ** 2, opacity, 0).astype(np.uint8)


def read(folder, *names):
    line = {"id": "1", "prompt": "a dog", "subjects": [{"class_word": "dog", "images": names}]}
    (folder / "scenes.jsonl").write_text(json.dumps(line))
    return read_scenes(folder / "scenes.jsonl")[0]


@pytest.mark.parametrize(("name", "options"), [("p.png", {}), ("p.webp", {"lossless": True}), ("p.tif", {})])
def test_transparency_is_the_mask(tmp_path, name, options):
    cut_out(tmp_path / name, disc(30, 40), **options)
    scene = read(tmp_path, name)
    (subject,) = scene.subjects
    assert subject.masks.shape == (1, 30, 40) and subject.masks.dtype == bool
    np.testing.assert_array_equal(subject.masks[0], disc(30, 40) > 0)
    np.testing.assert_array_equal(subject.images[0], np.where(disc(30, 40)[..., None] > 0, np.uint8(RED), 255))
    shown = on_white(scene, GivenMasks())
    np.testing.assert_array_equal(shown.subjects[0].images, subject.images)
    assert unfit(scene) == unfit(shown) == ""
    write_records(tmp_path / "records", [scene])
    (kept,) = open_records(tmp_path / "records", Scene)[0].subjects
    np.testing.assert_array_equal(kept.masks, np.asarray(subject.masks))


@pytest.mark.parametrize(("opacity", "there"), [(127, False), (128, True)])
def test_half_transparent(tmp_path, opacity, there):
    """More opaque than not is foreground, and it looks as it did before it had a mask: mixed with white."""
    cut_out(tmp_path / "p.png", disc(30, 40, opacity))
    scene = read(tmp_path, "p.png")
    assert scene.subjects[0].masks[0].any() == there and bool(unfit(scene)) != there
    seen = scene.subjects[0].images[0][disc(30, 40) > 0]
    assert np.abs(seen - (255 - (255 - np.float32(RED)) * opacity / 255)).max() <= 1


def test_masks_of_pictures_of_several_sizes(tmp_path):
    """They stand where the pictures do: turned, reduced and in the middle of a square."""
    exif = Image.Exif()
    exif[274] = 6
    cut_out(tmp_path / "lying.png", disc(60, 90), exif=exif)
    cut_out(tmp_path / "large.png", disc(3 * PHOTO_SIDE, 30 * 3))
    (subject,) = read(tmp_path, "lying.png", "large.png").subjects
    assert subject.masks.shape == subject.images.shape[:3] == (2, PHOTO_SIDE, PHOTO_SIDE)
    images, masks = np.asarray(subject.images).astype(int), np.asarray(subject.masks)
    for image, mask, name in zip(images, masks, ("lying.png", "large.png"), strict=True):
        np.testing.assert_array_equal(image, fit_image(read_photo(tmp_path / name), PHOTO_SIDE))
        assert 0.005 < mask.mean() < 0.5
        sure = np.abs(image - RED).max(-1) <= 2, (image == 255).all(-1)
        assert mask[sure[0]].all() and not mask[sure[1]].any() and (sure[0] | sure[1]).mean() > 0.9


def test_a_subject_has_masks_of_all_photos_or_none(tmp_path):
    cut_out(tmp_path / "cut.png", disc(30, 40))
    Image.new("RGB", (40, 30), RED).save(tmp_path / "whole.png")
    assert read(tmp_path, "cut.png", "whole.png").subjects[0].masks is None
    assert read(tmp_path, "cut.png", "cut.png").subjects[0].masks.shape == (2, 30, 40)


@pytest.mark.parametrize(("opacity", "said"), [(0, "no foreground"), (255, "nothing but foreground")])
def test_references_that_show_no_subject(tmp_path, opacity, said):
    cut_out(tmp_path / "p.png", np.full((30, 40), opacity, np.uint8))
    assert unfit(read(tmp_path, "p.png")) == f"{said} in a reference"
