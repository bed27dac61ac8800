import os
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import tensorflow_datasets as tfds

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Annotation, Candidate, Preference, Scene, Score, Subject
from narrative_jax.data.datasets import (
    RECORDS_PER_SHARD,
    finished_chunks,
    open_records,
    pack_chunks,
    write_chunk,
    write_records,
)
from narrative_jax.data.kinds import KINDS
from narrative_jax.storybook.datasets import scenes

POINTS = np.random.default_rng(0).random((2, 5, 2), np.float32)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def candidates(count, side=8):
    return [Candidate(f"c{i}", f"s{i // 4}", pixels(side, side + 1, 3, seed=i), i, "storybook") for i in range(count)]


def same(a, b):
    """Whether two records, or parts of them, are of the same types and values."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(value, getattr(b, name)) for name, value in vars(a).items())
    return type(a) is type(b) and a == b


@pytest.mark.parametrize(
    "records",
    [
        candidates(3),
        [Candidate("ä/1", "s", pixels(1, 2, 3), 2**40, "")],
        [Score("c0", "raters", (0.5, -1.25, 3.0)), Score("c1", "clip", (2.0,))],
        [
            Annotation("c0", "cleanness", "An arm is missing, „Zoë“ says.", 2.5, "rater 1"),
            Annotation("c0", "overall", "", None, "judge", "failed"),
        ],
        [Preference("a", "b", "overall", False, 0.75), Preference("c", "d", "visual_quality", True)],
        [
            Scene("1", "a dog and Zoë", (Subject("Zoë", "girl", pixels(3, 5, 4, 3)),), "user"),
            Scene("2", "nobody", (), "train", {"deep": [1, {"er": None}]}, np.zeros((0, 5, 2), np.float32)),
            Scene(
                "3",
                "two",
                (
                    Subject("a", "cat", pixels(1, 6, 2, 3), np.array([[[True, False]] * 6])),
                    Subject("b", "dog", pixels(2, 3, 7, 3), pixels(2, 3, 7) > 100, POINTS),
                ),
                "test",
                None,
                POINTS[:1],
            ),
        ],
    ],
    ids=["candidates", "odd candidate", "scores", "annotations", "preferences", "scenes"],
)
def test_records_come_back_as_they_were(tmp_path, records):
    assert write_records(tmp_path / "d", iter(records)) == len(records)
    read = open_records(tmp_path / "d", type(records[0]))
    assert same(list(read), records)
    assert os.listdir(tmp_path) == ["d"]


def test_scenes_from_before_there_were_landmarks(tmp_path, monkeypatch):
    kind, text = KINDS[Scene], tfds.features.Text()
    part = {name: text for name in ("name", "class_word", "images", "masks")}
    part["num_images"] = tfds.features.Scalar(np.int64)

    def encode(subjects):
        return [{name: fields[name] for name in part} for fields in kind.fields["subjects"].encode(subjects)]

    old = {name: field for name, field in kind.fields.items() if name != "faces"}
    old["subjects"] = replace(old["subjects"], feature=tfds.features.Sequence(part), encode=encode)
    asked = [Scene("1", "two", tuple(Subject(name, "dog", pixels(1, 4, 4, 3)) for name in "ab"), "user")]
    with monkeypatch.context() as patch:
        patch.setitem(KINDS, Scene, replace(kind, fields=old))
        write_records(tmp_path / "d", asked)
    assert same(list(open_records(tmp_path / "d", Scene)), asked)


def test_facts_come_back_as_plain_values(tmp_path):
    asked = scenes("tune", range(4))
    write_records(tmp_path / "d", asked)
    for scene, read in zip(asked, open_records(tmp_path / "d", Scene), strict=True):
        assert read.facts == {**asdict(scene.facts), "characters": [asdict(c) for c in scene.facts.characters]}
        assert same(replace(read, facts=None), replace(scene, facts=None))


def test_random_access_over_several_shards(tmp_path):
    count = 2 * RECORDS_PER_SHARD + 3
    write_records(tmp_path / "d", (Score(f"c{i}", "r", (float(i),)) for i in range(count)))
    read = open_records(tmp_path / "d", Score)
    assert len(read) == count
    for index in (0, RECORDS_PER_SHARD - 1, RECORDS_PER_SHARD, count - 1, np.int64(7), -1, -count):
        assert read[index].scores == (float(index % count),)
    for index in (count, -count - 1):
        with pytest.raises(IndexError, match=f"record {index} of {count}"):
            read[index]


def without_this_library(folder, checks):
    """What a program prints that opens a directory by `tensorflow_datasets` alone, as `source`."""
    program = f"""
import io, math, sys
import numpy as np, tensorflow_datasets as tfds
from PIL import Image
source = tfds.builder_from_directory({str(folder)!r}).as_data_source("records")
{checks}
assert not {{"tensorflow", "narrative_jax", "jax"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=folder)
    return done.stdout.strip()


def test_a_directory_is_read_without_this_library(tmp_path):
    records = candidates(5)
    write_records(tmp_path / "d", records)
    checks = """
assert len(source) == 5 and source[3]["id"] == b"c3" and source[3]["seed"] == 3
print(np.asarray(Image.open(io.BytesIO(source[3]["image"]))).tolist())
"""
    assert without_this_library(tmp_path / "d", checks) == str(records[3].image.tolist())


def test_annotations_are_read_without_this_library(tmp_path):
    write_records(tmp_path / "d", [Annotation("c0", "count", "Nobody.", s, "judge") for s in (1.5, None)])
    checks = """
assert source[0]["score"] == 1.5 and math.isnan(source[1]["score"])
print(*(source[1][name].decode() for name in ("candidate_id", "aspect", "critique", "annotator", "status")))
"""
    assert without_this_library(tmp_path / "d", checks) == "c0 count Nobody. judge done"


def test_columns_are_of_the_types_of_the_records(tmp_path):
    write_records(tmp_path / "c", candidates(5))
    columns = open_records(tmp_path / "c", Candidate).columns("scene_id", "seed")
    assert columns == {"scene_id": ["s0"] * 4 + ["s1"], "seed": [0, 1, 2, 3, 4]}
    write_records(tmp_path / "p", [Preference("a", "b", "x", True, 0.5), Preference("c", "d", "x", False)])
    columns = open_records(tmp_path / "p", Preference).columns("tie", "gap", "aspect")
    assert same(list(columns.values()), [[True, False], [0.5, None], ["x", "x"]])
    write_records(tmp_path / "s", [Score("c0", "r", (0.5, 1.0)), Score("c1", "r", ())])
    assert open_records(tmp_path / "s", Score).columns("scores") == {"scores": [(0.5, 1.0), ()]}
    assert open_records(tmp_path / "c", Candidate).picture_sizes() == [(8, 9)] * 5
    write_records(tmp_path / "a", [Annotation("c0", "x", "", None, "r"), Annotation("c0", "x", "", 2.0, "r")])
    assert open_records(tmp_path / "a", Annotation).columns("score") == {"score": [None, 2.0]}


def test_columns_decode_no_picture(tmp_path, monkeypatch):
    kind = KINDS[Candidate]
    damaged = replace(kind.fields["image"], encode=lambda pixels: kind.fields["image"].encode(pixels)[:-40])
    with monkeypatch.context() as patch:
        patch.setitem(KINDS, Candidate, replace(kind, fields={**kind.fields, "image": damaged}))
        write_records(tmp_path / "d", candidates(2))
    read = open_records(tmp_path / "d", Candidate)
    assert read.columns("id", "scene_id") == {"id": ["c0", "c1"], "scene_id": ["s0", "s0"]}
    assert read.rows_by("id") == {"c0": 0, "c1": 1}
    with pytest.raises(InputError, match="record 1 cannot be read"):
        read[1]


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (candidates(1)[0], "image"),
        (candidates(1)[0], "colour"),
        *((Scene("1", "p", (), "user"), name) for name in ("subjects", "facts", "faces")),
    ],
)
def test_columns_are_of_texts_and_numbers_only(tmp_path, record, name):
    write_records(tmp_path / "d", [record])
    with pytest.raises(KeyError, match=name):
        open_records(tmp_path / "d", type(record)).columns("id", name)


def test_rows_by_the_value_of_a_field(tmp_path):
    write_records(tmp_path / "d", candidates(3))
    read = open_records(tmp_path / "d", Candidate)
    assert read.rows_by("id") == {"c0": 0, "c1": 1, "c2": 2}
    with pytest.raises(InputError, match=r"d: scene_id 's0': 3 records have this scene_id, each has its own; remove"):
        read.rows_by("scene_id")


def test_writing_again_replaces(tmp_path):
    write_records(tmp_path / "d", candidates(5))
    write_records(tmp_path / "d", [Score("c0", "r", (1.0,))])
    assert len(open_records(tmp_path / "d", Score)) == 1
    assert not list((tmp_path / "d").glob("candidate*"))


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    def interrupted():
        yield from candidates(3)
        raise KeyboardInterrupt

    write_records(tmp_path / "d", candidates(2))
    with pytest.raises(KeyboardInterrupt):
        write_records(tmp_path / "d", interrupted())
    assert len(open_records(tmp_path / "d", Candidate)) == 2
    assert os.listdir(tmp_path) == ["d"]


def test_a_full_disk_is_one_clear_line(tmp_path):
    write_records(tmp_path / "d", candidates(2))
    program = f"""
import resource, signal
import numpy as np
from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Candidate
from narrative_jax.data.datasets import write_records
image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1))
try:
    write_records({str(tmp_path / "d")!r}, [Candidate("c", "s", image, 0, "g")])
except InputError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "it cannot be written (" in output.stdout and "File too large" in output.stdout
    assert len(output.stdout.splitlines()) == 1 and "free the disk" in output.stdout
    assert len(open_records(tmp_path / "d", Candidate)) == 2 and os.listdir(tmp_path) == ["d"]


def test_nothing_to_write(tmp_path):
    with pytest.raises(InputError, match="holds at least one"):
        write_records(tmp_path / "d", [])
    assert not os.listdir(tmp_path)


@pytest.fixture
def directory(tmp_path):
    write_records(tmp_path / "d", candidates(20, side=100))
    return tmp_path / "d"


def test_another_kind_of_record(directory):
    with pytest.raises(InputError, match=r"d: its records are of kind 'candidate', 'score' are needed"):
        open_records(directory, Score)


def test_no_directory(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: it is no record directory.*run the stage"):
        open_records(tmp_path / "nowhere", Score)


def test_a_missing_shard(directory):
    shard = next(directory.glob("*array_record*"))
    shard.unlink()
    with pytest.raises(InputError, match=f"{shard.name}: this shard is missing; remove the folder of the entry"):
        open_records(directory, Candidate)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999999])
def test_a_truncated_shard(directory, kept):
    shard = next(directory.glob("*array_record*"))
    shard.write_bytes(shard.read_bytes()[: int(shard.stat().st_size * kept)])
    with pytest.raises(InputError, match=rf"{shard.name}: this shard is truncated.*\(20 records expected\)"):
        open_records(directory, Candidate)


def test_damage_in_the_middle_is_found_by_reading(directory):
    shard = next(directory.glob("*array_record*"))
    data = bytearray(shard.read_bytes())
    middle = len(data) // 4
    data[middle : middle + 5000] = bytes(5000)
    shard.write_bytes(data)
    with pytest.raises(InputError, match=r"d: record \d+ cannot be read"):
        list(open_records(directory, Candidate))
    with pytest.raises(InputError, match=r"d: record \d+ cannot be read"):
        open_records(directory, Candidate).columns("id")


def test_a_broken_description(directory):
    (directory / "features.json").write_text("{")
    with pytest.raises(InputError, match="its description cannot be read"):
        open_records(directory, Candidate)


def test_chunks_make_one_directory_in_order(tmp_path):
    records = candidates(10)
    assert finished_chunks(tmp_path / "chunks") == []
    write_chunk(tmp_path / "chunks", 1, records[4:8])
    with pytest.raises(InputError, match="chunk 0 of 3 is missing"):
        pack_chunks(tmp_path / "chunks", tmp_path / "d", Candidate, 3)
    write_chunk(tmp_path / "chunks", 0, records[:4])
    write_chunk(tmp_path / "chunks", 2, records[8:])
    assert finished_chunks(tmp_path / "chunks") == [0, 1, 2]
    with pytest.raises(InputError, match="chunk 3 of 4 is missing"):
        pack_chunks(tmp_path / "chunks", tmp_path / "d", Candidate, 4)
    assert pack_chunks(tmp_path / "chunks", tmp_path / "d", Candidate, 3) == 10
    assert same(list(open_records(tmp_path / "d", Candidate)), records)


def test_an_unfinished_chunk_does_not_count(tmp_path):
    def killed():
        yield from candidates(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_chunk(tmp_path, 0, killed())
    (tmp_path / ".chunk-000001.part").mkdir()  # what SIGKILL would leave
    assert finished_chunks(tmp_path) == []
