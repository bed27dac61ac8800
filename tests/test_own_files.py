"""What people write and photograph, as it comes: encodings, Unicode forms, modes of pictures, damage, folders."""

import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from narrative_jax.core.config import load, override
from narrative_jax.core.errors import InputError
from narrative_jax.core.text import check_text, read_text
from narrative_jax.data.own_pairs import find_pairs
from narrative_jax.data.photos import PHOTO_SIDE, check_picture, read_photo
from narrative_jax.data.sources import find_pictures, read_preferences, read_scenes
from narrative_jax.study.fuzz import measured

RED = (200, 30, 30)


@pytest.fixture
def trials(test_data, tmp_path):
    """A copy, in which a test may write."""
    return Path(shutil.copytree(test_data / "trials", tmp_path / "trials"))


def save(path, size=(6, 4), colour=RED, mode="RGB", **options):
    Image.new(mode, size, colour).save(path, **options)
    return path


def scene(**fields):
    return {"id": "1", "prompt": "a dog", "subjects": [{"class_word": "dog", "images": ["dog.png"]}], **fields}


def write(path, *lines, encoding="utf-8"):
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines), encoding)
    return path


def refused(read, message, *arguments):
    with pytest.raises(InputError, match=message) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)


def test_lines_end_at_line_feeds_only(trials):
    prompts = [scene.prompt for scene in read_scenes(trials / "line_separator.jsonl")]
    assert prompts == [f"Mara waves.{separator}By the castle." for separator in "\u2028\u2029\x85"]
    data = (trials / "line_separator.jsonl").read_bytes().replace(b"\n", b"\r\n")
    (trials / "dos.jsonl").write_bytes(data)
    assert [scene.prompt for scene in read_scenes(trials / "dos.jsonl")] == prompts


def test_half_an_emoji_is_told_on_its_line(trials):
    refused(
        read_scenes,
        r"half_emoji.jsonl:1: prompt 'Mara waves \\ud83d': character 12 has no UTF-8 form",
        trials / "half_emoji.jsonl",
    )


@pytest.mark.parametrize("place", ["id", "name", "class_word", "image", "field", "chosen", "picture"])
def test_half_an_emoji_anywhere(tmp_path, place):
    save(tmp_path / "dog.png")
    half = "\ud83d"
    subject = {"class_word": "dog", "images": ["dog.png"]}
    if place in ("name", "class_word"):
        subject[place] = half
    if place == "image":
        subject["images"] = [half]
    fields = scene(subjects=[subject]) | ({"id": half} if place == "id" else {half: 1} if place == "field" else {})
    if place == "picture":
        path = write(tmp_path / "mine.jsonl", {"id": "1", "prompt": "a dog", "picture": half})
        refused(find_pictures, r"mine.jsonl:1: picture .* no UTF-8 form", path)
    elif place == "chosen":
        path = write(tmp_path / "mine.jsonl", {"chosen": half, "rejected": "2"})
        refused(lambda path: read_preferences(path, []), r"mine.jsonl:1: chosen .* no UTF-8 form", path)
    else:
        refused(read_scenes, r"mine.jsonl:1.* no UTF-8 form", write(tmp_path / "mine.jsonl", fields))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_are_read(tmp_path, encoding):
    save(tmp_path / "dog.png")
    (tmp_path / "dog.txt").write_text("Zoë, a dog 🐕", encoding)
    path = write(tmp_path / "scenes.jsonl", scene(prompt="Zoë, a dog 🐕"), encoding=encoding)
    assert read_scenes(path)[0].prompt == find_pictures(tmp_path)[0][0][0].prompt == "Zoë, a dog 🐕"
    (tmp_path / "big.txt").write_bytes("\ufeffZoë".encode("utf-16-be"))
    assert read_text(tmp_path / "big.txt") == "Zoë"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-32", "cp1252"])
def test_encodings_that_are_not(tmp_path, encoding):
    save(tmp_path / "dog.png")
    (tmp_path / "dog.txt").write_text("Zoë waves ü", encoding)
    refused(find_pictures, r"dog.txt: it cannot be read .*; save it in UTF-8", tmp_path)


def test_the_trial_in_utf_16(trials):
    assert find_pictures(trials / "prompt_utf16")[0][0][0].prompt == "a café"


def test_a_file_name_in_other_bytes_is_told(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    try:
        save(tmp_path / f"{name}.png")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    refused(find_pictures, r"file name 'caf\\udce9.png': character 4 has no UTF-8 form", tmp_path)
    refused(find_pairs, r"file name 'caf\\udce9.png': character 4 has no UTF-8 form", tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (scene(promt="a cat"), r"unknown field in .*jsonl:1 'promt': .*did you mean 'prompt'"),
        (scene(subjects=[{"class_word": "dog", "images": ["dog.png"], "imges": []}]), r"'imges': .*mean 'images'"),
        (
            '{"id": "1", "prompt": "a", "prompt": "b", "subjects": []}',
            r"it is no JSON \('prompt' is there twice",
        ),
        (scene(prompt=" \t"), r"prompt ' \\t': prompt is a text, not empty"),
        ('{"id": ' + "[" * 100_000, r"jsonl:1: it is no JSON"),
        (scene(subjects=[{"class_word": "a", "images": ["dog.png"], "landmarks": [[[10**400, 0]] * 5]}]), "landmarks"),
    ],
)
def test_fields(tmp_path, fields, message):
    save(tmp_path / "dog.png")
    refused(read_scenes, message, write(tmp_path / "scenes.jsonl", fields))


@pytest.mark.parametrize("there, asked", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_that_look_alike_are_the_same(tmp_path, there, asked):
    folder = tmp_path / unicodedata.normalize(there, "Zoë")
    folder.mkdir()
    save(folder / unicodedata.normalize(there, "Éva.png"))
    name = unicodedata.normalize(asked, "Zoë/Éva.png")
    path = write(tmp_path / "scenes.jsonl", scene(subjects=[{"class_word": "dog", "images": [name]}]))
    assert (read_scenes(path)[0].subjects[0].images[0] == RED).all()
    (folder / unicodedata.normalize(asked, "Éva.txt")).write_text("a dog")
    pictures, _ = find_pictures(folder)
    cat = {"id": "cat", "prompt": "a dog", "picture": "a.png"}
    given = {"chosen": unicodedata.normalize(asked, "Éva"), "rejected": "cat"}
    scenes = [pictures[0][0], type(pictures[0][0])(cat["id"], cat["prompt"], (), "user")]
    (preference,) = read_preferences(write(tmp_path / "p.jsonl", given), scenes)
    assert preference.chosen_id == scenes[0].id


def test_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "dog.png")
    (tmp_path / "there").mkdir()
    path = write(tmp_path / "there" / "s.jsonl", scene(subjects=[{"class_word": "dog", "images": ["~/dog.png"]}]))
    assert (read_scenes(path)[0].subjects[0].images[0] == RED).all()


def test_both_doors_take_the_same_pictures(trials, tmp_path):
    pictures, left_out = find_pictures(trials / "webp_beside_png")
    assert [scene.id for scene, _ in pictures] == ["a", "b"] and not left_out
    folder = tmp_path / "all"
    folder.mkdir()
    for suffix in ("png", "jpg", "JPEG", "webp", "tif", "tiff", "bmp"):
        save(folder / f"{suffix}.{suffix}")
        (folder / f"{suffix}.txt").write_text("a dog")
    lines = [{"id": file.name, "prompt": "a dog", "picture": file.name} for file in folder.glob("*.[!t]*")]
    (folder / "tif.txt").rename(folder / "tif.txt")
    for name in (".DS_Store", "._png.png"):
        (folder / name).write_bytes(b"x")
    for name in ("film.gif", "notes.md"):
        (folder / name).write_bytes(b"GIF89a")
    found, left_out = find_pictures(folder)
    assert [scene.id for scene, _ in found] == ["JPEG", "bmp", "jpg", "png", "tif", "tiff", "webp"]
    assert [phrase.partition(":")[0] for phrase in left_out] == ["film.gif", "notes.md"]
    assert len(find_pictures(write(tmp_path / "all" / "lines.jsonl", *lines))[0]) == len(lines)
    line = {"id": "1", "prompt": "a film", "picture": "film.gif"}
    refused(find_pictures, r"'film.gif': it is no readable picture \(PNG", write(folder / "g.jsonl", line))


def test_two_pictures_of_one_prompt_are_told(tmp_path):
    for name in ("dog.png", "dog.webp"):
        save(tmp_path / name)
    (tmp_path / "dog.txt").write_text("a dog")
    refused(find_pictures, r"dog.webp: dog.png has that name too; rename one", tmp_path)


WHITE_CMYK = (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "seen"),
    [
        ("1", 1, "png", (255, 255, 255)),
        ("L", 128, "png", (128, 128, 128)),
        ("LA", (0, 0), "png", (255, 255, 255)),
        ("P", 0, "png", (0, 0, 0)),
        ("RGBA", (*RED, 0), "png", (255, 255, 255)),
        ("RGBA", (*RED, 255), "webp", None),
        ("I;16", 32896, "png", (128, 128, 128)),
        ("I;16", 32896, "tif", (128, 128, 128)),
        ("I;16B", 32896, "tif", (128, 128, 128)),
        ("CMYK", WHITE_CMYK, "jpg", (255, 255, 255)),
        ("CMYK", WHITE_CMYK, "tif", (255, 255, 255)),
        ("YCbCr", (128, 128, 128), "tif", (128, 128, 128)),
    ],
)
def test_modes_that_are_read(tmp_path, mode, colour, suffix, seen):
    path = save(tmp_path / f"p.{suffix}", colour=colour, mode=mode)
    photo = read_photo(path)
    assert photo.shape == (4, 6, 3) and np.abs(photo - np.int16(seen or RED)).max() <= (2 if seen else 6)


@pytest.mark.parametrize(("mode", "colour"), [("F", 0.5), ("I", 70_000), ("LAB", (50, 0, 0))])
def test_modes_that_are_not(tmp_path, mode, colour):
    path = save(tmp_path / "p.tif", colour=colour, mode=mode)
    for read in (read_photo, lambda path: check_picture(path, f"{path}")):
        refused(read, rf"p.tif: it is no readable picture \(nobody knows .* of mode {mode} are white", path)


def test_inks_with_a_profile_are_not(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = save(tmp_path / "p.tif", colour=(0, 0, 0, 0), mode="CMYK", icc_profile=profile)
    refused(read_photo, r"p.tif: it is no readable picture .*save it in RGB", path)


@pytest.mark.parametrize("name", ["p.png", "p.webp", "p.tif"])
def test_films_are_refused(tmp_path, name):
    frames = [Image.new("RGB", (6, 4), (value, 0, 0)) for value in (0, 200)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    refused(read_photo, "it holds 2, a film or pages", tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_damage_at_the_end_is_seen_before_work_begins(tmp_path, suffix):
    path = tmp_path / f"dog.{suffix}"
    Image.effect_noise((99, 66), 50).convert("RGB").save(path)
    check_picture(path, "dog")
    path.write_bytes(path.read_bytes()[:-300])
    refused(lambda path: check_picture(path, "dog"), "dog: it is no readable picture", path)
    (tmp_path / "dog.txt").write_text("a dog")
    refused(find_pictures, rf"dog.{suffix}: it is no readable picture", tmp_path)
    refused(lambda path: find_pictures(path, "drop"), r"all its pictures are damaged, e.g. .*dog", tmp_path)
    save(tmp_path / "cat.png")
    (tmp_path / "cat.txt").write_text("a cat")
    found, left_out = find_pictures(tmp_path, "drop")
    assert [scene.id for scene, _ in found] == ["cat"] and len(left_out) == 1


def test_too_many_pixels_are_told_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for size in ((6, 4), (3, 4)):
        refused(read_photo, r"p.png: it has too many pixels .*; make it smaller", save(tmp_path / "p.png", size))


def test_photos_are_read_when_they_are_needed(tmp_path):
    sizes = [(40, 30), (3 * PHOTO_SIDE, 30), (7, 90)]
    names = [f"{number}.jpg" for number in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        save(tmp_path / name, size)
    path = write(tmp_path / "s.jsonl", scene(subjects=[{"class_word": "dog", "images": names}]))
    photos = read_scenes(path)[0].subjects[0].images
    assert photos.shape == (3, PHOTO_SIDE, PHOTO_SIDE, 3) == np.asarray(photos).shape == np.stack(list(photos)).shape
    assert len(photos) == 3 and photos.dtype == np.asarray(photos).dtype
    for name in names:
        (tmp_path / name).unlink()
    assert len(photos[0]) == PHOTO_SIDE, "kept for the next row that asks"


def test_a_photo_that_changes_is_read_again(tmp_path):
    path = write(tmp_path / "s.jsonl", scene())
    for time, colour in enumerate((RED, (0, 90, 0)), start=1):
        save(tmp_path / "dog.png", colour=colour)
        os.utime(tmp_path / "dog.png", (time, time))
        assert (read_scenes(path)[0].subjects[0].images[0] == colour).all()


@pytest.mark.slow
def test_many_photos_do_not_fill_the_memory(tmp_path, monkeypatch):
    """400 photos of 1024² less 4: 1.2 GB, were all kept."""
    Image.effect_noise((1024, 1024), 50).convert("RGB").save(tmp_path / "photo.jpg")
    for number in range(400):
        os.link(tmp_path / "photo.jpg", tmp_path / f"{number}.jpg")
    peaks = []
    monkeypatch.chdir(tmp_path)
    reads = "import sys; from narrative_jax.data.sources import read_scenes\n"
    Path("reads.py").write_text(reads + "for s in read_scenes(sys.argv[1]): s.subjects[0].images[0][0, 0, 0]")
    for count in (4, 400):
        lines = [scene(id=str(n), subjects=[{"class_word": "dog", "images": [f"{n}.jpg"]}]) for n in range(count)]
        code, said, peak = measured(["reads", str(write(tmp_path / f"{count}.jsonl", *lines))])
        assert code == 0, said
        peaks.append(peak)
    assert peaks[1] - peaks[0] <= 200e6


def test_text_without_bytes():
    assert check_text("prompt", "Zoë 🐕") == "Zoë 🐕"
    refused(check_text, r"prompt 'a\\udce9': character 2 has no UTF-8 form", "prompt", "a\udce9")


@pytest.mark.parametrize("recipe", ["dpo", "score", "reward:own"])
def test_the_policy_is_a_flag_of_every_recipe_that_collects(recipe):
    config = load(recipe)
    override(config, "collect.damaged_policy", "drop")
    assert config.collect.damaged_policy == "drop"
