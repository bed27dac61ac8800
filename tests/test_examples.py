"""People's own examples: Subjects200K's Parquet files, and folders of photos as DreamBooth's."""

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import one_entry
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.core.files import read_json
from narrative_jax.core.records import Candidate, Scene
from narrative_jax.data import parquet
from narrative_jax.data.datasets import open_records
from narrative_jax.data.examples import find_examples
from narrative_jax.data.photos import read_photo
from narrative_jax.stages import collect

BOTH = {"left": (200, 30, 30), "right": (30, 30, 200)}
DOG = {"item": "Rex", "category": "dog", "description_0": "Rex on a lawn", "description_1": "Rex by the sea"}


def both(size=(528, 1056), lefts=(8, 536), side=512, kind="PNG"):
    """Two pictures of one colour each in a frame of white, as a file."""
    pixels = np.full((*size, 3), 255, np.uint8)
    top = (size[0] - side) // 2
    for left, colour in zip(lefts, BOTH.values(), strict=True):
        pixels[top : top + side, left : left + side] = colour
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def rated(*ratings):
    return dict(zip(("compositeStructure", "objectConsistency", "imageQuality"), ratings, strict=True))


def row(image=None, ratings=(5, 5, 5), **description):
    image = both() if image is None else image
    return {
        "image": {"bytes": image or None, "path": None},
        "collection": "collection_2",
        "quality_assessment": ratings and rated(*ratings),
        "description": {**DOG, "description_valid": None, **description},
    }


def write(path, *rows, group=2):
    """As the data set has it: structures, and an index of the rows of a group each."""
    text = pa.string()
    named = dict.fromkeys(DOG, text)
    schema = {
        "image": pa.struct({"bytes": pa.binary(), "path": text}),
        "collection": text,
        "quality_assessment": pa.struct(dict.fromkeys(rated(0, 0, 0), pa.int64())),
        "description": pa.struct({**named, "description_valid": pa.bool_()}),
    }
    pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(schema)), path, row_group_size=group)
    return path


def refused(message, *arguments):
    with pytest.raises(InputError, match=message) as caught:
        find_examples(*arguments)
    assert "\n" not in str(caught.value)


def test_each_side_is_once_the_target(tmp_path):
    path = write(tmp_path / "train.parquet", row(), row(category=None), row(item=None))
    found, left_out = find_examples(path)
    assert left_out == [] and [scene.id for scene, _ in found] == [
        f"train/{number}/{side}" for number in range(3) for side in BOTH
    ]
    for place, (scene, target) in enumerate(found):
        (subject,), mine = scene.subjects, list(BOTH)[place % 2]
        assert scene.prompt == DOG[f"description_{place % 2}"] and scene.split == "user"
        assert subject.images.shape == (1, 512, 512, 3) and subject.masks is None
        assert (read_photo(target) == BOTH[mine]).all() and read_photo(target).shape == (512, 512, 3)
        assert (subject.images[0] == BOTH[{"left": "right", "right": "left"}[mine]]).all()
    named = [(scene.subjects[0].name, scene.subjects[0].class_word) for scene, _ in found[::2]]
    assert named == [("Rex", "dog"), ("Rex", "Rex"), ("dog", "dog")]


@pytest.mark.parametrize(
    ("size", "lefts", "side"),
    [
        ((528, 1056), (8, 536), 512),
        ((528, 1048), (8, 528), 512),
        ((512, 1024), (0, 512), 512),
        ((1024, 2048), (0, 1024), 1024),
        ((1040, 2080), (8, 1048), 1024),
    ],
)
def test_pictures_are_cut_out_of_their_frame(tmp_path, size, lefts, side):
    """The frame is white, so a pixel of it would show."""
    found, _ = find_examples(write(tmp_path / "a.parquet", row(both(size, lefts, side))))
    for (_, target), colour in zip(found, BOTH.values(), strict=True):
        assert read_photo(target).shape == (side, side, 3) and (read_photo(target) == colour).all()


@pytest.mark.parametrize("size", [(528, 528), (300, 1056), (560, 1056), (528, 1100), (512, 1000)])
def test_other_pictures_are_no_two_squares(tmp_path, size):
    path = write(tmp_path / "a.parquet", row(), row(both(size, (0, 0), 8)))
    refused(rf"a.parquet, row 1: .*{size[0]} × {size[1]} pixels are no two squares of 512 or 1024", path)


def test_what_is_rated_badly_is_counted(tmp_path):
    rows = [row(), row(ratings=(5, 5, 4)), row(ratings=None), row(ratings=(3, 5, 5)), row(description_valid=False)]
    path = write(tmp_path / "a.parquet", *rows)
    found, left_out = find_examples(path)
    assert [scene.id for scene, _ in found] == ["a/0/left", "a/0/right"]
    assert left_out == [f"{path}: 4 of 5 rows are not rated 5 or more"]
    assert {scene.id.split("/")[1] for scene, _ in find_examples(path, 4)[0]} == {"0", "1"}
    everything, left_out = find_examples(path, 0)
    assert len(everything) == 10 and left_out == []
    for quality in (6, -1, 2.5):
        refused(f"quality {quality}", path, quality)
    refused("no example is left of it .*a.parquet: 1 of 1 rows are not rated", write(path, rows[1]))


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (row(both()[:-60]), "it is no readable picture"),
        (row(both(kind="JPEG")[:-600]), "it is no readable picture"),
        (row(b""), "its picture is missing"),
        (row(description_0=None), "its description_0 is missing"),
        (row(description_1=" "), "its description_1 is missing"),
    ],
)
def test_damaged_rows_stop_or_are_left_out(tmp_path, damaged, reason):
    path = write(tmp_path / "a.parquet", row(), row(), damaged, row())
    refused(rf"a.parquet, row 2: {reason}.*; give a whole one, or leave it out by damaged_policy 'drop'", path)
    found, left_out = find_examples(path, None, "drop")
    assert [scene.id.split("/")[1] for scene, _ in found[::2]] == ["0", "1", "3"]
    (told,) = left_out
    assert told.startswith(f"{path}, row 2: {reason}")
    assert [scene.id for scene, _ in find_examples(write(path, damaged, row()), 5, "drop")[0]] == [
        "a/1/left",
        "a/1/right",
    ]
    refused("no example is left of it .*row 0", write(path, damaged), 5, "drop")
    refused("unknown damaged_policy 'skip'", path, 5, "skip")


def test_bad_parquet_files(tmp_path):
    path = write(tmp_path / "a.parquet", row())
    refused("none.parquet: there is no such file or folder", tmp_path / "none.parquet")
    table = pq.read_table(path)
    pq.write_table(table.drop_columns("description"), path)
    refused("a.parquet: it has no description.description_0, as Subjects200K has; its columns are image", path)
    pq.write_table(table.set_column(0, "image", pa.array([b"a"])), path)
    refused("a.parquet: it has no image.bytes", path)
    described = {name: "1" for name in ("description_0", "description_1")}
    rows = [{**row(), "description": described, "quality_assessment": {**rated(5, 5, 5), "imageQuality": "5"}}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    refused("a.parquet: it has no quality_assessment.imageQuality, as Subjects200K has", path)
    refused(r"no example is left of it \(it has no rows\)", write(path))
    write(path, row())
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"Rex on a lawn", b"Rex \xff a lawn"))
    refused("a.parquet: it is no readable Parquet file", path)
    path.write_bytes(whole)
    path.write_bytes(path.read_bytes()[:-9])
    refused("a.parquet: it is no readable Parquet file", path)


def test_a_folder_of_files_is_read_group_by_group(tmp_path, monkeypatch):
    """No more than one group's pictures are asked for at once, and none of rows that are left out."""
    (tmp_path / "data").mkdir()  # where downloads have them
    for name in "ba":
        write(tmp_path / "data" / f"{name}.parquet", *[row()] * 3, *[row(ratings=None)] * 2, row(), group=2)
    (tmp_path / "README.md").write_text("not one")
    read, kept = pq.ParquetFile.read_row_group, []
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *asked: kept.append(asked[1:]) or read(*asked))
    parquet.column_of.cache_clear()
    found, _ = find_examples(tmp_path)
    assert [scene.id for scene, _ in found[::2]] == [
        f"{name}/{number}" + "/left" for name in "ab" for number in (0, 1, 2, 5)
    ]
    assert [group for group, columns in kept if columns == ["image.bytes"]] == [0, 1, 2, 0, 1, 2]
    kept.clear()
    for scene, target in found:
        assert read_photo(target).any() and scene.subjects[0].images[0].any()
    assert len(kept) == 6 and parquet.column_of.cache_info().currsize <= 2
    assert find_examples(tmp_path)[0] == found and len(kept) == 6, "what was looked at is not looked at again"


def test_files_of_one_name_are_refused(tmp_path):
    """Their examples would have the same ids."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "train.parquet", row())
    refused("a/train.parquet and .*/b/train.parquet: .*names of their files; rename one", tmp_path)


def test_collected_in_chunks(tmp_path, monkeypatch):
    """Scene and picture at once; a stopped run goes on behind what it finished."""
    monkeypatch.setattr(collect, "_CHUNK", 2)
    write(tmp_path / "a.parquet", row(), row(b""), row(), row(ratings=None))
    section = {"stage": "collect", "examples": str(tmp_path / "a.parquet"), "damaged_policy": "drop"}
    looks = iter([False, True])
    stop = type("StopAfter", (), {"requested": property(lambda self: next(looks))})()
    with pytest.raises(Stopped):
        one_entry.run({"collect": section}, "collect", tmp_path, stop)
    asked = []
    monkeypatch.setattr(collect, "read_photo", lambda panel: asked.append(panel.row) or read_photo(panel))
    assert one_entry.run({"collect": section}, "collect", tmp_path) == {"pictures": 4, "left_out": 2}
    assert asked == [0, 0], "the second chunk alone, of the second group's first row"
    scenes, pictures = (
        open_records(tmp_path / "collect" / n, k) for n, k in (("scenes", Scene), ("candidates", Candidate))
    )
    assert [scene.id for scene in scenes] == [picture.scene_id for picture in pictures]
    for scene, picture, colour, other in zip(
        scenes, pictures, [*BOTH.values()] * 2, [*BOTH.values()][::-1] * 2, strict=True
    ):
        assert (picture.image == colour).all() and (scene.subjects[0].images == other).all()
    left_out = read_json(tmp_path / "collect" / "notices.json")["left_out"]
    assert ["row 1: its picture is missing" in left_out[0], "1 of 4 rows" in left_out[1]] == [True, True]
    assert not (tmp_path / "collect" / "chunks").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": ""}, "examples '': there is no file to take them from; .* --config.collect.examples=PATH"),
        ({"pictures": "there"}, "examples 'a.parquet': they bring their pictures, and come without pictures"),
        ({"preferences": "there"}, "examples 'a.parquet': they bring .* without preferences"),
        ({"examples": None, "pictures": "there", "quality": 4}, "quality 4: it sieves examples, and there are none"),
        ({"examples": "dogs", "quality": 4}, "quality 4: only Parquet files of Subjects200K have ratings"),
    ],
)
def test_what_does_not_go_together(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.parquet", row())
    Path("dogs").mkdir()
    with pytest.raises(InputError, match=message):
        one_entry.check({"collect": {"stage": "collect", "examples": "a.parquet", **changes}}, "collect")


# Folders of photos


@pytest.fixture
def dogs(tmp_path):
    """Two subjects, of whom one has three photos, and one with a single one."""
    for place, count in {"fat_cat": 2, "rex": 3, "lone": 1}.items():
        (tmp_path / "own" / place).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (9, 6), (number, len(place), 0)).save(tmp_path / "own" / place / f"{number:02d}.png")
    return tmp_path / "own"


def test_each_photo_is_once_the_target(dogs):
    (dogs / "prompts_and_classes.txt").write_text(
        "Classes\n\nsubject_name,class\nrex,dog\nfat_cat,cat\n\nPrompts\nx,y\n"
    )
    (dogs / "rex" / "01.txt").write_text("Rex asleep\n")
    (dogs / "rex" / "notes.pdf").write_text("")
    found, left_out = find_examples(dogs)
    said = [(scene.id, scene.prompt, target.name, scene.subjects[0].images[0, 0, 0, 0]) for scene, target in found]
    assert said == [
        ("fat_cat/00", "a photo of a cat", "00.png", 1),
        ("fat_cat/01", "a photo of a cat", "01.png", 0),
        ("rex/00", "a photo of a dog", "00.png", 1),
        ("rex/01", "Rex asleep", "01.png", 2),
        ("rex/02", "a photo of a dog", "02.png", 0),
    ]
    assert [(each.name, each.class_word) for scene, _ in found[1:3] for each in scene.subjects] == [
        ("fat_cat", "cat"),
        ("rex", "dog"),
    ]
    assert left_out[0] == "lone: a pair needs two photos, and it has 1" and left_out[1].startswith("rex: notes.pdf")


def test_without_classes_a_subject_is_called_as_its_folder(dogs):
    assert [scene.prompt for scene, _ in find_examples(dogs)[0][1:3]] == ["a photo of a fat cat", "a photo of a rex"]


def test_bad_folders(dogs, tmp_path):
    (dogs / "prompts_and_classes.txt").write_text("subject_name,class\nrex,dog\n")
    refused("fat_cat: prompts_and_classes.txt says no class for it; add the line fat_cat,CLASS", dogs)
    (dogs / "prompts_and_classes.txt").write_text("rex,dog\n")
    refused("prompts_and_classes.txt: it has no line 'subject_name,class'", dogs)
    (dogs / "prompts_and_classes.txt").unlink()
    (dogs / "rex" / "01.png").write_bytes(b"no")
    refused("rex/01.png: it is no readable picture", dogs)
    found, left_out = find_examples(dogs, None, "drop")
    assert [scene.id for scene, _ in found] == ["fat_cat/00", "fat_cat/01", "rex/00", "rex/02"]
    assert any("rex/01.png" in told for told in left_out)
    shutil.copy(dogs / "rex" / "00.png", dogs / "rex" / "00.bmp")
    refused("00.png: 00.bmp has that name too", dogs, None, "drop")
    refused(r"rex: it holds neither Parquet files nor folders of photos \(no folder\)", dogs / "rex")


def test_real_photos(test_data):
    found, left_out = find_examples(test_data / "dreambooth")
    names = [scene.id.split("/")[0] for scene, _ in found]
    assert len(set(names)) == 10 and {4, 5, 6} >= {names.count(name) for name in names} and left_out == []
    asked = {scene.id: (scene, target) for scene, target in found}
    scene, target = asked["grey_sloth_plushie/00"]
    assert (scene.prompt, scene.subjects[0].class_word) == ("a photo of a stuffed animal", "stuffed animal")
    with Image.open(test_data / "dreambooth" / "grey_sloth_plushie" / "01.jpg") as opened:
        np.testing.assert_array_equal(scene.subjects[0].images[0], np.asarray(opened.convert("RGB")))
    assert not np.array_equal(read_photo(target), scene.subjects[0].images[0])
