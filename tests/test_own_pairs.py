import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Preference
from narrative_jax.data.own_pairs import find_pairs
from narrative_jax.data.photos import picture_size, read_photo
from narrative_jax.data.sources import read_scenes


def draw(folder, *names):
    """A small picture of its own colour under each name."""
    for name in names:
        colour = tuple(zlib.crc32(name.encode()).to_bytes(4, "big")[:3])
        Image.new("RGB", (6, 4), colour).save(folder / name)


def say(folder, **prompts):
    for stem, prompt in prompts.items():
        (folder / f"{stem}.txt").write_text(prompt, encoding="utf-8")


def write(folder, *lines, end="\n"):
    texts = [each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in lines]
    path = folder / "pairs.jsonl"
    path.write_bytes(end.join(texts).encode())
    return path


def line(**fields):
    return {"prompt": "a cat", "chosen": "1.png", "rejected": "2.png", **fields}


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path, "1.png", "2.png")
    return tmp_path


@pytest.fixture
def own(tmp_path):
    """A folder of pictures in pairs, two of them preferred and two even."""
    own = tmp_path / "own"
    own.mkdir()
    draw(own, "cat_w.png", "cat_l.JPG", "ape_e1.jpeg", "ape_e2.png", "b_c.d_w.png", "b_c.d_l.png")
    say(own, cat="a cat\n", ape="\ufeffan ape", **{"b_c.d": "Zoë"})
    return own


# A folder


def test_a_folder_of_pairs(own):
    found = find_pairs(str(own))
    assert [(scene.id, scene.prompt, scene.subjects, scene.split) for scene in found.scenes] == [
        ("ape", "an ape", (), "user"),
        ("b_c.d", "Zoë", (), "user"),
        ("cat", "a cat", (), "user"),
    ]
    assert found.pictures == [
        ("ape/first", "ape", own / "ape_e1.jpeg"),
        ("ape/second", "ape", own / "ape_e2.png"),
        ("b_c.d/chosen", "b_c.d", own / "b_c.d_w.png"),
        ("b_c.d/rejected", "b_c.d", own / "b_c.d_l.png"),
        ("cat/chosen", "cat", own / "cat_w.png"),
        ("cat/rejected", "cat", own / "cat_l.JPG"),
    ]
    assert found.preferences == [
        Preference("ape/first", "ape/second", "overall", True, None),
        Preference("b_c.d/chosen", "b_c.d/rejected", "overall", False, None),
        Preference("cat/chosen", "cat/rejected", "overall", False, None),
    ]
    assert found.left_out == []


def test_pairs_are_sorted_by_stem_and_not_by_file(tmp_path):
    draw(tmp_path, "a_w.png", "a_l.png", "a!_w.png", "a!_l.png", "a_b_w.png", "a_b_l.png", "a-_w.png", "a-_l.png")
    say(tmp_path, **dict.fromkeys(["a", "a!", "a_b", "a-"], "a cat"))
    assert [scene.id for scene in find_pairs(tmp_path).scenes] == ["a", "a!", "a-", "a_b"]


def test_what_is_left_out_is_named(own):
    draw(own, "dog_w.png", "eel_l.png", "fox_e1.png", "gnu_e2.png", "hen.png", "_w.png", "cat_e1.png", "cat_W.png")
    draw(own, ".hidden_w.png", "._cat_w.png", ".hidden.png", "owl_w.webp")
    (own / "yak_l.jxl").write_text("another kind")
    (own / "sub_w.png").mkdir()
    say(own, notes="no prompt", elk_l="no picture")
    found = find_pairs(own)
    assert [scene.id for scene in found.scenes] == ["ape", "b_c.d", "cat"]
    endings = "its name ends in none of _w, _l, _e1, _e2"
    assert found.left_out == [
        f"_w.png: {endings}",
        f"cat_W.png: {endings}",
        "cat_e1.png: there is no cat_e2",
        "dog_w.png: there is no dog_l",
        "eel_l.png: there is no eel_w",
        "fox_e1.png: there is no fox_e2",
        "gnu_e2.png: there is no gnu_e1",
        f"hen.png: {endings}",
        "owl_w.webp: there is no owl_l",
        "yak_l.jxl: a picture is one of .png, .jpg, .jpeg, .webp, .tif, .tiff, .bmp",
    ]


def refused(path, message):
    """The one line of the error, which has a value, a rule and a remedy."""
    with pytest.raises(InputError, match=message) as caught:
        find_pairs(path)
    said = str(caught.value)
    assert said.startswith((f"{path}", "unknown field")) and "; " in said and "\n" not in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: draw(own, "cat_w.jpg"), r"cat_w.png: cat_w.jpg has that name too; remove one"),
        (lambda own: draw(own, "ape_e2.PNG"), r"ape_e2.png: ape_e2.PNG has that name too"),
        (lambda own: draw(own, "cat_e1.png", "cat_e2.png"), r"own/cat_w.png and cat_e1.png: of one pair either"),
        (lambda own: (own / "cat.txt").unlink(), r"cat_w.png: its prompt is missing: there is no cat.txt; write it"),
        (lambda own: say(own, cat=" \n"), r"own/cat.txt: a prompt is a text, not empty; write what"),
        (lambda own: say(own, ape=""), r"own/ape.txt: a prompt is a text, not empty"),
        (lambda own: (own / "cat.txt").write_bytes(b"\xff"), r"own/cat.txt: it cannot be read \(.*; save it in UTF-8"),
        (lambda own: (own / "cat_w.png").write_text("x"), r"own/cat_w.png: it is no readable picture"),
        (
            lambda own: (own / "cat_l.JPG").write_bytes((own / "cat_w.png").read_bytes()),
            r"own/cat_w.png and cat_l.JPG: they are the same picture; give two",
        ),
        (
            lambda own: (own / "ape_e1.jpeg").write_bytes((own / "ape_e2.png").read_bytes()),
            r"own/ape_e1.jpeg and ape_e2.png: they are the same picture",
        ),
    ],
)
def test_bad_folders(own, change, message):
    change(own)
    refused(own, message)


def test_a_link_to_nowhere_is_not_passed_over(own):
    (own / "cat_w.png").unlink()
    (own / "cat_w.png").symlink_to("gone.png")
    refused(own, r"own/cat_w.png: there is no .*cat_w.png; correct the path")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"it holds no pair \(it has no picture\); name pictures STEM_w.png and STEM_l.png"),
        (("cat.png",), r"it holds no pair \(cat.png: its name ends in none of"),
        (("cat_w.png", "ape_e2.png"), r"it holds no pair \(ape_e2.png: there is no ape_e1\)"),
    ],
)
def test_a_folder_without_a_pair(tmp_path, names, message):
    draw(tmp_path, *names)
    refused(tmp_path, message)


# A file


def test_a_file_of_pairs(folder):
    draw(folder, "me.png")
    subjects = [{"name": "Rex", "class_word": "dog", "images": ["me.png"]}]
    path = write(
        folder,
        line(gap=0.5),
        "  ",
        line(prompt=" Zoë ", chosen="2.png", rejected="1.png", tie=True, gap=-1),
        line(rejected=str(folder / "2.png"), subjects=subjects, tie=False),
        "",
    )
    found = find_pairs(str(path))
    assert [(scene.id, scene.prompt, scene.split) for scene in found.scenes] == [
        ("1", "a cat", "user"),
        ("3", "Zoë", "user"),
        ("4", "a cat", "user"),
    ]
    one, other = folder / "1.png", folder / "2.png"
    assert found.pictures == [
        ("1/chosen", "1", one),
        ("1/rejected", "1", other),
        ("3/first", "3", other),
        ("3/second", "3", one),
        ("4/chosen", "4", one),
        ("4/rejected", "4", other),
    ]
    assert found.preferences == [
        Preference("1/chosen", "1/rejected", "overall", False, 0.5),
        Preference("3/first", "3/second", "overall", True, -1.0),
        Preference("4/chosen", "4/rejected", "overall", False, None),
    ]
    assert [len(scene.subjects) for scene in found.scenes] == [0, 0, 1] and found.left_out == []
    (rex,) = found.scenes[2].subjects
    assert (rex.name, rex.class_word) == ("Rex", "dog")
    np.testing.assert_array_equal(rex.images, [read_photo(folder / "me.png")])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_line_feeds_end_a_line(folder, end):
    prompts = ["a\u2028cat\u0085and\u2029more", "a dog"]
    path = write(
        folder, "\ufeff" + json.dumps(line(prompt=prompts[0]), ensure_ascii=False), line(prompt="a dog"), end=end
    )
    assert [(scene.id, scene.prompt) for scene in find_pairs(path).scenes] == [("1", prompts[0]), ("2", "a dog")]
    subjects = [{"class_word": "dog", "images": ["1.png"]}]
    path = write(folder, *({"id": p, "prompt": p, "subjects": subjects} for p in prompts), end=end)
    assert [scene.prompt for scene in read_scenes(path)] == prompts


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"prompt": 1', r"jsonl:2: it is no JSON \(.*; write one JSON object a line"),
        ("[]", r"jsonl:2: a line is a JSON object"),
        ("{}", r"jsonl:2: 'prompt' is missing \(there are no fields\)"),
        ({"prompt": "a cat", "rejected": "2.png"}, r"jsonl:2: 'chosen' is missing"),
        ({"prompt": "a cat", "chosen": "1.png"}, r"jsonl:2: 'rejected' is missing"),
        ({"promt": "a cat", "chosen": "1.png"}, r"unknown field in .*jsonl:2 'promt': known are .*mean 'prompt'"),
        (line(choosen="1.png"), r"unknown field in .*jsonl:2 'choosen': .*did you mean 'chosen'"),
        (line(subject=[]), r"unknown field in .*jsonl:2 'subject': .*did you mean 'subjects'"),
        (line(id="7"), r"unknown field in .*jsonl:2 'id': known are prompt, chosen, rejected, subjects, tie, gap;"),
        (line(prompt=""), r"jsonl:2: prompt '': prompt is a text, not empty"),
        (line(prompt=" "), r"jsonl:2: prompt ' ': prompt is a text, not empty"),
        (line(prompt=["a cat"]), r"jsonl:2: prompt \['a cat'\]: prompt is a text"),
        (line(chosen=3), r"jsonl:2: chosen 3: chosen is a text"),
        (line(chosen="3.png"), r"jsonl:2: chosen '3.png': there is no /.*3.png; correct the path"),
        (line(rejected="3.png"), r"jsonl:2: rejected '3.png': there is no /.*3.png; correct the path"),
        (line(rejected="pairs.jsonl"), r"jsonl:2: rejected 'pairs.jsonl': it is no readable picture"),
        (line(rejected="1.png"), r"jsonl:2: chosen '1.png' and 1.png: they are the same picture"),
        (line(rejected="./1.png"), r"jsonl:2: chosen '1.png' and 1.png: they are the same picture"),
        (line(rejected="copy.png"), r"jsonl:2: chosen '1.png' and copy.png: they are the same picture"),
        (line(rejected="copy.png", tie=True), r"jsonl:2: chosen '1.png' and copy.png: they are the same picture"),
        (line(tie=1), r"jsonl:2: tie 1: tie is true or false"),
        (line(gap="1"), r"jsonl:2: gap '1': gap is a finite number.*; give .* or leave it out"),
        (line(gap=True), r"jsonl:2: gap True: gap is a finite number"),
        (line(gap=None), r"jsonl:2: gap None: gap is a finite number"),
        (line(gap=float("nan")), r"jsonl:2: gap nan: gap is a finite number"),
        (line(gap=float("-inf")), r"jsonl:2: gap -inf: gap is a finite number"),
        (line(gap=10**400), r"jsonl:2: gap 10*: gap is a finite number"),
        (line(gap=1e39), r"jsonl:2: gap 1e\+39: gap is a finite number, at most 3.4e\+38"),
        (line(subjects=[]), r"jsonl:2: subjects \[\]: subjects is a list, not empty"),
        (line(subjects=[{"images": ["1.png"]}]), r"jsonl:2: 'class_word' is missing"),
        (line(subjects=[{"class_word": "dog", "images": ["3.png"]}]), r"jsonl:2: image '3.png': there is no"),
    ],
)
def test_bad_lines(folder, second, message):
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    refused(write(folder, line(), second), message)


def test_bad_files(folder):
    refused(write(folder, "", " "), r"pairs.jsonl: it holds no pair; write one a line")
    refused(folder / "nowhere.jsonl", r"nowhere.jsonl: it cannot be read")
    refused(folder / "1.png", r"1.png: it cannot be read")


# Both


def test_folder_and_file_agree(own):
    lines = [
        {"prompt": "an ape", "chosen": "ape_e1.jpeg", "rejected": "ape_e2.png", "tie": True},
        {"prompt": "Zoë", "chosen": "b_c.d_w.png", "rejected": "b_c.d_l.png"},
        {"prompt": "a cat", "chosen": "cat_w.png", "rejected": "cat_l.JPG"},
    ]
    from_folder, from_file = find_pairs(own), find_pairs(write(own, *lines))

    def told(found):
        number = {scene.id: str(place) for place, scene in enumerate(found.scenes, start=1)}
        pictures = {id: f"{number[scene]}/{id.rpartition('/')[2]}" for id, scene, _ in found.pictures}
        return (
            [(number[scene.id], scene.prompt, scene.subjects, scene.split) for scene in found.scenes],
            [(pictures[id], number[scene], file) for id, scene, file in found.pictures],
            [(pictures[p.chosen_id], pictures[p.rejected_id], p.aspect, p.tie, p.gap) for p in found.preferences],
        )

    assert told(from_folder) == told(from_file) and len(from_file.scenes) == 3


def cut(path):
    """Leave the beginning of a picture, which cannot be decoded then."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="no readable picture"):
        read_photo(path)


def test_damaged_pictures_stop_or_are_left_out(tmp_path):
    for name in ("a_w.png", "a_l.jpg", "b_w.png", "b_l.png"):
        Image.effect_noise((99, 66), 50).save(tmp_path / name)
    say(tmp_path, a="noise", b="more")
    for name, left in (("a_w.png", 1), ("a_l.jpg", 2)):
        cut(tmp_path / name)
        assert picture_size(tmp_path / name) == (66, 99), "its beginning is whole"
        with pytest.raises(InputError, match=r"a_[wl]\.(png|jpg): it is no readable picture"):
            find_pairs(tmp_path)
        found = find_pairs(tmp_path, "drop")
        assert [scene.id for scene in found.scenes] == ["b"] and len(found.left_out) == left
    cut(tmp_path / "b_w.png")
    with pytest.raises(InputError, match=r"all its pairs are damaged, e.g. .*b_w.png"):
        find_pairs(tmp_path, "drop")
    with pytest.raises(InputError, match="unknown damaged_policy 'skip'"):
        find_pairs(tmp_path, "skip")


@pytest.mark.parametrize("orientation", [None, 1, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.webp", "p.tif"])
def test_sizes_are_those_of_the_upright_picture(tmp_path, name, orientation):
    exif = Image.Exif()
    if orientation:
        exif[274] = orientation
    Image.new("RGB", (6, 4)).save(tmp_path / name, exif=exif)
    assert picture_size(tmp_path / name) == read_photo(tmp_path / name).shape[:2]
    assert picture_size(str(tmp_path / name)) == ((6, 4) if orientation in (5, 6, 8) else (4, 6))


def test_a_png_that_says_behind_its_pixels_how_to_turn_it(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "p.png")
    exif = Image.Exif()
    exif[274] = 6
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    note = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    whole = (tmp_path / "p.png").read_bytes()
    (tmp_path / "p.png").write_bytes(whole[:-12] + note + whole[-12:])
    assert picture_size(tmp_path / "p.png") == read_photo(tmp_path / "p.png").shape[:2] == (6, 4)


def test_sizes_of_large_photos_are_not_reduced(tmp_path):
    Image.new("L", (3000, 20)).save(tmp_path / "wide.png")
    assert picture_size(tmp_path / "wide.png") == (20, 3000)
    with pytest.raises(InputError, match=r"picture .*none.png: there is no .*none.png; correct the path"):
        picture_size(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"picture .*text.png: it is no readable picture"):
        picture_size(tmp_path / "text.png")
