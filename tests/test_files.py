import json
import os

import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import check_writable, new_folder, write_bytes, write_json


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "a.json", {"loss": np.float32(0.5), "name": "Zoë"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"loss": 0.5, "name": "Zoë"}
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text()) == 1


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, failing):
    def full(*_):
        raise OSError(28, "No space left on device")

    write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(os, failing, full)
    with pytest.raises(InputError, match=r"a: it cannot be written \(No space left on device\); free the disk"):
        write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_written(tmp_path):
    assert check_writable(tmp_path / "new" / "folder").is_dir()
    assert os.listdir(tmp_path / "new" / "folder") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="it cannot be written"):
        check_writable(tmp_path / "file" / "folder")
    with pytest.raises(InputError, match="it cannot be written"):
        write_bytes(tmp_path / "file" / "name", b"")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with new_folder(tmp_path / "a") as temporary:
        (temporary / "old").write_text("")
        assert not (tmp_path / "a").exists()
    with pytest.raises(KeyError), new_folder(tmp_path / "a") as temporary:
        (temporary / "new").write_text("")
        raise KeyError
    assert os.listdir(tmp_path) == ["a"] and os.listdir(tmp_path / "a") == ["old"]


def test_a_new_folder_takes_the_place_of_the_old_and_of_remains(tmp_path):
    (tmp_path / ".a.part").mkdir()
    (tmp_path / ".a.part" / "remains").write_text("")
    for name in ("first", "second"):
        with new_folder(tmp_path / "a") as temporary:
            (temporary / name).write_text("")
    assert os.listdir(tmp_path) == ["a"] and os.listdir(tmp_path / "a") == ["second"]
