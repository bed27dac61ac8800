"""Hashes tell contents apart and nothing else, and a file that was not touched is read once."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from narrative_jax.core import hashing
from narrative_jax.core.errors import InputError
from narrative_jax.core.hashing import Hashes, digest


@pytest.fixture
def of(tmp_path):
    """of(path): its hash, by someone who remembers nothing."""
    return lambda path: Hashes(tmp_path / "no memory.json").of(path)


@pytest.fixture
def read(monkeypatch):
    """The names of the files that were read."""
    names = []

    def counting(path, mode):
        names.append(Path(path).name)
        return open(path, mode)

    monkeypatch.setattr(hashing, "open", counting, raising=False)
    return names


def leave(folder, **files):
    """A folder of these files, "photos/mara.png" as photos__mara; all have been there for long."""
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        settle(path)
    return folder


def settle(path, seconds=100):
    moment = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(moment, moment))


def test_a_file_is_its_name_and_bytes(tmp_path, of):
    leave(tmp_path / "a", weights="one")
    leave(tmp_path / "b", weights="one", other="one")
    assert of(tmp_path / "a" / "weights") == of(tmp_path / "b" / "weights") == of(str(tmp_path / "b" / "weights"))
    assert of(tmp_path / "b" / "weights") != of(tmp_path / "b" / "other")
    before = of(tmp_path / "a" / "weights")
    leave(tmp_path / "a", weights="two")
    assert of(tmp_path / "a" / "weights") != before
    leave(tmp_path / "a", weights="one")
    settle(tmp_path / "a" / "weights", 5000)
    assert of(tmp_path / "a" / "weights") == before


def test_what_is_not_there(tmp_path, of):
    assert of(tmp_path / "nowhere") == of(tmp_path / "nothing" / "else")
    leave(tmp_path, weights="")
    assert of(tmp_path / "weights") != of(tmp_path / "nowhere")


def test_a_file_of_several_blocks(tmp_path, of, monkeypatch):
    leave(tmp_path, weights="0123456789" * 10)
    whole = of(tmp_path / "weights")
    monkeypatch.setattr(hashing, "_BLOCK", 7)
    assert of(tmp_path / "weights") == whole
    assert whole == digest({"weights": hashlib.sha256(b"0123456789" * 10).hexdigest()})


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"photos__mara": "another"}, True),
        ({"photos__ivo": "new"}, True),
        ({"prompt": "another"}, True),
        ({".part": "new"}, False),
        ({"photos__.cache": "new"}, False),
        ({".cache__photo": "new"}, False),
        ({"README.md": "a card"}, False),
    ],
)
def test_a_folder_is_all_its_files_but_hidden_ones_and_cards(tmp_path, of, change, differs):
    folder = leave(tmp_path / ".hidden" / "folder", prompt="Mara", photos__mara="a photo")
    before = of(folder)
    leave(folder, **change)
    assert (of(folder) != before) == differs


def test_a_folder_whose_files_change_places(tmp_path, of):
    one, two = leave(tmp_path / "one" / "it", a="1", b="2"), leave(tmp_path / "two" / "it", a="2", b="1")
    assert of(one) != of(two)
    leave(two, a="1", b="2")
    assert of(one) == of(two)


LINES = [{"prompt": "Mara", "subjects": [{"images": ["mara.png", "photos/ivo.png"]}]}, {"picture": "drawn.png"}]
INDEX = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
FILES = {"scenes.jsonl": "\n".join(map(json.dumps, LINES)), "model.index.json": json.dumps(INDEX)}


@pytest.mark.parametrize(
    ("file", "beside", "belongs"),
    [
        ("scenes.jsonl", "mara.png", True),
        ("scenes.jsonl", "photos/ivo.png", True),
        ("scenes.jsonl", "drawn.png", True),
        ("scenes.jsonl", "nobody.png", False),
        ("model.index.json", "part-2.safetensors", True),
        ("model.index.json", "part-3.safetensors", False),
        ("model.safetensors", "tokenizer.json", True),
        ("model.safetensors", "scalar.json", True),
        ("model.safetensors", "part-1.safetensors", False),
    ],
)
def test_what_belongs_to_a_file(tmp_path, of, file, beside, belongs):
    leave(tmp_path, **FILES, **{"model.safetensors": "weights", "photos/ivo.png": "a photo", beside: "one"})
    before = of(tmp_path / file)
    leave(tmp_path, **{beside: "two"})
    assert (of(tmp_path / file) != before) == belongs
    (tmp_path / beside).unlink()
    assert (of(tmp_path / file) != before) == belongs


def test_lines_that_are_none_and_texts_that_are_no_paths(tmp_path, of):
    texts = ["", "a" * 5000, "nul\0", "mara.png", 7, None, {"deep": ["ivo.png"]}]
    lines = ["{ no JSON", json.dumps(texts), "", "\ufeff"]
    leave(tmp_path, **{"scenes.jsonl": "\n".join(lines), "mara.png": "one", "ivo.png": "one"})
    before = of(tmp_path / "scenes.jsonl")
    leave(tmp_path, **{"ivo.png": "two"})
    assert of(tmp_path / "scenes.jsonl") != before


def test_what_was_read_is_remembered(tmp_path, read):
    file, memory = leave(tmp_path, weights="one") / "weights", tmp_path / "memory.json"
    hashes = Hashes(memory)
    found = hashes.of(file)
    assert hashes.of(file) == found and read == ["weights"], "within a run"
    assert not memory.exists()
    hashes.save()
    assert Hashes(memory).of(file) == found and read == ["weights"], "and after it"
    for change in (lambda: settle(file, 50), lambda: leave(tmp_path, weights="longer")):
        read.clear()
        change()
        hashes = Hashes(memory)
        found = hashes.of(file)
        assert read == ["weights"]
        hashes.save()
        assert Hashes(memory).of(file) == found and read == ["weights"]


def test_the_memory_is_by_path(tmp_path, read):
    one, two = leave(tmp_path / "one", weights="one"), leave(tmp_path / "two", weights="two")
    for folder in (one, two):
        os.utime(folder / "weights", ns=(10**18, 10**18))
    hashes = Hashes(tmp_path / "memory.json")
    assert hashes.of(one / "weights") != hashes.of(two / "weights") and len(read) == 2


def test_a_file_of_this_moment_is_read_again(tmp_path, read):
    """It may be written once more without its size or time telling."""
    leave(tmp_path, weights="one")
    os.utime(tmp_path / "weights")
    hashes, moment = Hashes(tmp_path / "memory.json"), (tmp_path / "weights").stat().st_mtime_ns
    before = hashes.of(tmp_path / "weights")
    (tmp_path / "weights").write_text("two")
    os.utime(tmp_path / "weights", ns=(moment, moment))
    assert hashes.of(tmp_path / "weights") != before and len(read) == 2
    hashes.save()
    assert not (tmp_path / "memory.json").exists(), "there is nothing to remember"


@pytest.mark.parametrize("damage", ["", "{", "\xff"])
def test_a_damaged_memory_is_forgotten(tmp_path, read, damage):
    file, memory = leave(tmp_path, weights="one") / "weights", tmp_path / "memory.json"
    memory.write_text(damage, encoding="latin-1")
    hashes = Hashes(memory)
    found = hashes.of(file)
    hashes.save()
    read.clear()
    assert Hashes(memory).of(file) == found and not read


def test_a_memory_that_cannot_be_written(tmp_path):
    file = leave(tmp_path, weights="one") / "weights"
    hashes = Hashes(file / "memory.json")
    hashes.of(file)
    with pytest.raises(InputError, match=r"memory.json: it cannot be written"):
        hashes.save()


def test_a_digest_is_of_values_in_whatever_order():
    assert digest({"a": 1, "b": {"c": [1, 2], "d": None}}) == digest({"b": {"d": None, "c": [1, 2]}, "a": 1})
    values = [{"a": 1}, {"a": 1.5}, {"a": "1"}, {"a": True}, {"a": None}, {"b": 1}, {"a": [1, 2]}, {"a": [2, 1]}, {}]
    assert len({digest(value) for value in values}) == len(values)
