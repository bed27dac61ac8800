import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import fit_image, to_float, to_uint8
from narrative_jax.core.records import Preference, Scene, Subject
from narrative_jax.data.photos import PHOTO_SIDE
from narrative_jax.data.sources import (
    find_pictures,
    limit_subjects,
    read_preferences,
    read_scenes,
    storybook_scenes,
    storybook_training_set,
)

RED, WHITE = (200, 30, 30), (255, 255, 255)


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (6, 4), RED).save(tmp_path / "dog.png")
    return tmp_path


def line(identity="1", **fields):
    return {"id": identity, "prompt": "a dog", "subjects": [{"class_word": "dog", "images": ["dog.png"]}], **fields}


def read(folder, *lines):
    texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
    (folder / "scenes.jsonl").write_text("\n".join(texts), encoding="utf-8")
    return read_scenes(folder / "scenes.jsonl")


def read_photo(folder, name):
    return read(folder, line(subjects=[{"class_word": "dog", "images": [name]}]))[0].subjects[0].images[0]


def test_storybook_scenes_are_the_worlds():
    few, more = storybook_scenes("test", 2), storybook_scenes("test", 3)
    assert [scene.id for scene in more] == ["test-0-000000", "test-0-000001", "test-0-000002"]
    assert few[1].facts == more[1].facts != storybook_scenes("test", 2, seed=1)[1].facts
    assert len(storybook_training_set("raw", 5, seed=3)) == 5
    with pytest.raises(InputError, match="count 0"):
        storybook_scenes("test", 0)


def test_a_file_of_scenes(folder):
    subjects = [
        {"name": "Rex", "class_word": "dog", "images": ["dog.png", str(folder / "dog.png")]},
        {"class_word": "cat", "images": ["dog.png"]},
    ]
    first, second = read(folder, line(), "", line("zwei", prompt="Zoë", subjects=subjects))
    assert (first.id, first.prompt, first.split, first.facts) == ("1", "a dog", "user", None)
    assert (second.id, second.prompt) == ("zwei", "Zoë")
    assert [(s.name, s.class_word) for s in second.subjects] == [("Rex", "dog"), ("cat", "cat")]
    assert [s.images.shape for s in second.subjects] == [(2, 4, 6, 3), (1, 4, 6, 3)]
    assert (second.subjects[0].images[:] == RED).all() and second.subjects[0].masks is None


def test_real_photos(test_data, folder):
    prompts = json.loads((test_data / "dreambench" / "dreambench_multiip.json").read_text())
    photos = [*sorted((test_data / "dreambooth").glob("*/*.jpg"))[::9], test_data / "lpips" / "ex_ref.png"]
    pairs = list(pairwise(photos))
    lines = [
        line(str(number), prompt=prompt["prompt"], subjects=[{"class_word": "toy", "images": [str(p)]} for p in pair])
        for number, (prompt, pair) in enumerate(zip(prompts, pairs, strict=False))
    ]
    sizes = set()
    for scene, pair in zip(read(folder, *lines), pairs, strict=True):
        for subject, photo in zip(scene.subjects, pair, strict=True):
            with Image.open(photo) as opened:
                sizes.add(opened.size)
                np.testing.assert_array_equal(subject.images[0], np.asarray(opened.convert("RGB")))
    assert len(sizes) > 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(folder, orientation):
    """A camera stores the sensor's picture and how it was held: `stored` is upright seen that way."""
    upright = np.full((40, 24, 3), 250, np.uint8)
    upright[:10, :6] = RED
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(folder / "p.jpg", exif=exif, quality=95)
    photo = read_photo(folder, "p.jpg").astype(int)
    assert photo.shape == upright.shape and np.abs(photo - upright).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_photos_of_any_mode(folder, mode):
    """The left half is dark, the right half light, or transparent where there is transparency."""
    grey = np.full((8, 8), 40, np.uint8)
    grey[:, 4:] = 255
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "1":
        picture = Image.fromarray(grey > 128)
    else:
        picture = Image.fromarray(grey).convert("RGB")
        picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    if "A" in mode:
        picture.putalpha(Image.fromarray(grey).point(lambda value: 255 if value < 128 else 0))
        picture.paste(0, (6, 0, 8, 8))  # black, and transparent
    picture.save(folder / ("p.jpg" if mode == "CMYK" else "p.png"))
    photo = read_photo(folder, "p.jpg" if mode == "CMYK" else "p.png").astype(int)
    assert photo.shape == (8, 8, 3)
    assert np.abs(photo[:, :4] - (0 if mode == "1" else 40)).max() < 8
    assert np.abs(photo[:, 4:] - 255).max() < 8


def test_large_photos_are_reduced(folder):
    Image.new("RGB", (3 * PHOTO_SIDE, 30), RED).save(folder / "wide.jpg")
    assert read_photo(folder, "wide.jpg").shape == (10, PHOTO_SIDE, 3)


def test_photos_of_one_subject_share_a_size(folder):
    Image.new("RGB", (3, 12), RED).save(folder / "tall.png")
    images = (
        read(folder, line(subjects=[{"class_word": "dog", "images": ["dog.png", "tall.png"]}]))[0].subjects[0].images
    )
    assert images.shape == (2, 12, 12, 3)
    assert (images[0, 2:10] == RED).all() and (images[0, :2] == 255).all() and (images[0, 10:] == 255).all()
    assert (images[1].reshape(-1, 3) == RED).all(1).sum() == 36


def test_landmarks_go_with_the_photos(folder):
    """A wide photo in a square: x stays, y moves towards the middle; a tall one the other way round."""
    Image.new("RGB", (3, 12), RED).save(folder / "tall.png")
    points = [[0.25, 0.5], [0.75, 0.5], [0.5, 0.625], [0.25, 0.75], [0.75, 1.0]]
    both = {"class_word": "dog", "images": ["dog.png", "tall.png"], "landmarks": [points, points]}
    wide, tall = read(folder, line(subjects=[both]))[0].subjects[0].landmarks
    x, y = np.transpose(points)
    np.testing.assert_allclose(wide, np.stack([x, (2 + 8 * y) / 12], 1), atol=1e-6)
    np.testing.assert_allclose(tall, np.stack([(4 + 3 * x) / 12, y], 1), atol=1e-6)
    alone = read(folder, line(subjects=[both | {"images": ["dog.png"], "landmarks": [points]}]))[0].subjects[0]
    np.testing.assert_allclose(alone.landmarks, [points], atol=1e-6)
    assert read(folder, line())[0].subjects[0].landmarks is None and alone.masks is None


def test_faces_of_finished_pictures(folder):
    points = [[0.25, 0.5], [0.75, 0.5], [0.5, 0.625], [0.25, 0.75], [0.75, 1.0]]
    for given, shape in (({"landmarks": [points] * 2}, (2, 5, 2)), ({"landmarks": []}, (0, 5, 2)), ({}, None)):
        told = {"id": "1", "prompt": "a dog", "picture": "dog.png", **given}
        (folder / "mine.jsonl").write_text(json.dumps(told))
        (((scene, _),), _) = find_pictures(folder / "mine.jsonl")
        assert (scene.faces if shape is None else scene.faces.shape) == shape


def without(name):
    return {key: value for key, value in line("2").items() if key != name}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"id": 1', r"jsonl:2: it is no JSON"),
        ("[1]", r"jsonl:2: a line is a JSON object"),
        (without("id"), r"jsonl:2: 'id' is missing \(there are prompt, subjects\)"),
        (without("prompt"), r"jsonl:2: 'prompt' is missing"),
        (without("subjects"), r"jsonl:2: 'subjects' is missing"),
        (line(2), r"jsonl:2: id 2: id is a text"),
        (line("2", prompt=""), r"jsonl:2: prompt '': prompt is a text, not empty"),
        (line("2", subjects=[]), r"jsonl:2: subjects \[\]: subjects is a list, not empty"),
        (line("2", subjects=["dog.png"]), r"jsonl:2: subject 'dog.png': a subject is a JSON object"),
        (line("2", subjects=[{"images": ["dog.png"]}]), r"jsonl:2: 'class_word' is missing"),
        (line("2", subjects=[{"class_word": "dog"}]), r"jsonl:2: 'images' is missing"),
        (line("2", subjects=[{"class_word": "dog", "images": []}]), r"jsonl:2: images \[\]"),
        (line("2", subjects=[{"class_word": "dog", "images": "dog.png"}]), r"jsonl:2: images 'dog.png': .* list"),
        (line("2", subjects=[{"class_word": "dog", "images": [7]}]), r"jsonl:2: image 7: an image is a path"),
        (line("2", subjects=[{"class_word": "dog", "images": ["d.png"]}]), r"jsonl:2: image 'd.png': there is no /.*"),
        (line("2", subjects=[{"class_word": "dog", "images": ["text.png"]}]), r"jsonl:2: image 'text.png': it is no r"),
        (line("2", subjects=[{"class_word": "dog", "images": ["cut.jpg"]}]), r"jsonl:2: image 'cut.jpg': it is no rea"),
        (line("2", subjects=[{"class_word": "dog", "images": ["."]}]), r"jsonl:2: image '.': it is no readable pictur"),
        (line("1"), r"jsonl:2: id '1': line 1 has it too"),
    ],
)
def test_bad_lines(folder, second, message):
    (folder / "text.png").write_text("no picture")
    Image.effect_noise((99, 99), 50).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-3000])
    with pytest.raises(InputError, match=message) as caught:
        read(folder, line(), second)
    assert "\n" not in str(caught.value)


def test_bad_files(folder):
    with pytest.raises(InputError, match=r"scenes.jsonl: it holds no scene"):
        read(folder, "", "  ")
    with pytest.raises(InputError, match=r"nowhere.jsonl: it cannot be read"):
        read_scenes(folder / "nowhere.jsonl")
    with pytest.raises(InputError, match=r"dog.png: it cannot be read"):
        read_scenes(folder / "dog.png")


def test_more_subjects_than_slots():
    scenes = [Scene(str(number), "", (None,) * number, "user") for number in range(1, 10)]
    assert limit_subjects(scenes, 9, "stop") == (scenes, [])
    assert limit_subjects(scenes, 7, "drop") == (scenes[:7], ["8", "9"])
    with pytest.raises(InputError, match=r'in 8, 9: the generator takes 7 subjects.*max_subjects_policy="drop"'):
        limit_subjects(scenes, 7, "stop")
    with pytest.raises(InputError, match=r"in 2, 3, 4, 5, 6 and 3 more scenes: the generator takes 1 "):
        limit_subjects(scenes, 1, "stop")
    with pytest.raises(InputError, match=r"in all 8 scenes"):
        limit_subjects(scenes[1:], 1, "drop")
    with pytest.raises(InputError, match=r"unknown max_subjects_policy 'dorp'.*'drop'"):
        limit_subjects(scenes, 9, "dorp")


def test_every_byte_survives_conversion():
    every = np.arange(256, dtype=np.uint8)
    floats = to_float(every)
    assert floats.dtype == np.float32 and floats[0] == -1 and floats[-1] == 1 and (np.diff(floats) > 0).all()
    np.testing.assert_array_equal(to_uint8(floats), every)
    np.testing.assert_array_equal(to_uint8([-1.5, -1.0, 0.999, 7.0]), [0, 0, 255, 255])


def test_a_picture_of_the_right_size_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    np.testing.assert_array_equal(fit_image(image, 24), image)


@pytest.mark.parametrize(("shape", "rows", "columns"), [((40, 20), (0, 8), (2, 6)), ((3, 12), (3, 5), (0, 8))])
def test_all_of_a_picture_is_fitted(shape, rows, columns):
    expected = np.full((8, 8, 3), 255)
    expected[slice(*rows), slice(*columns)] = RED
    np.testing.assert_array_equal(fit_image(np.full((*shape, 3), RED, np.uint8), 8), expected)


def test_reduction_is_antialiased():
    stripes = np.zeros((80, 80, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(fit_image(stripes, 8).astype(int) - 127).max() < 10


# Preferences


def preferences(tmp_path, *lines):
    path = tmp_path / "preferences.jsonl"
    path.write_text("\n".join(lines))
    mara, ivo = (Subject(name, "man", np.full((1, 4, 4, 3), len(name), np.uint8)) for name in ("Mara", "Ivo"))
    asked = {"a": ("Mara waves", mara), "b": ("Mara waves", mara), "c": ("Ivo reads", ivo), "e": ("Mara waves", ivo)}
    return read_preferences(path, [Scene(id, prompt, (who,), "user") for id, (prompt, who) in asked.items()])


def test_preferences_are_read_in_order(tmp_path):
    found = preferences(
        tmp_path,
        '{"chosen": "a", "rejected": "b"}',
        "",
        '{"chosen": "b", "rejected": "a", "aspect": "visual_quality", "tie": true}',
    )
    assert found == [Preference("a", "b", "overall", False), Preference("b", "a", "visual_quality", True)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"chosen": "a"}', "jsonl:1: 'rejected' is missing"),
        ('{"chosen": "a", "rejected": "d"}', "jsonl:1: 'd': there is no picture with this id"),
        (
            '{"chosen": "a", "rejected": "c"}',
            "jsonl:1: 'a' and 'c': a preference is between two pictures of one prompt",
        ),
        ('{"chosen": "a", "rejected": "e"}', "with the same subjects"),
        ('{"chosen": "a", "rejected": "a"}', "two pictures of one prompt"),
        ('{"chosen": "a", "rejected": "b", "tie": 1}', "tie 1: tie is true or false"),
        ('{"chosen": "a", "rejected": "b", "aspekt": "x"}', "unknown field .*aspekt.*did you mean 'aspect'"),
        ("[]", "jsonl:1: a line is a JSON object"),
        ("", "it holds no preference"),
    ],
)
def test_bad_preferences(tmp_path, line, said):
    with pytest.raises(InputError, match=said):
        preferences(tmp_path, line)
