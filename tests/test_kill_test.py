"""What the kill test compares; the kills themselves take too long for a test."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from narrative_jax.core.records import Score
from narrative_jax.data.datasets import write_records
from narrative_jax.study import kill_test
from narrative_jax.study.kill_test import contents, differences


def leave(workdir, scores=(1.0, 2.0), loss=0.5, seconds=1.0, weight=1.0, gold=0.3):
    """A run directory with these values in it."""
    folder = workdir / "score"
    write_records(folder / "scores", [Score("a/0", "raters", scores)])
    save_file({"w": np.float32([weight])}, folder / "adapter.safetensors", {"name": "align", "base": "x"})
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": loss, "step_seconds": seconds}) + "\n")
    (folder / "manifest.json").write_text(json.dumps({"seconds": seconds}))
    (workdir / "summary.json").write_text(json.dumps({"gold/x": gold, "time/total_seconds": seconds}))
    return contents(workdir)


@pytest.fixture
def expected(tmp_path):
    return leave(tmp_path / "expected")


def test_times_may_differ(tmp_path, expected):
    """Those of files that were read, too; what entries were made from may not."""
    other = tmp_path / "other"
    leave(other, seconds=2.0)
    for name in (".hashes.json", ".lock", "score/elapsed.json"):
        (other / name).write_text("[1.0]")
    assert differences(expected, contents(other)) == []
    (other / "score" / "inputs.json").write_text("{}")
    assert differences(expected, contents(other)) == ["score/inputs.json"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"scores": (1.0, 2.5)}, "score/scores/dataset_info.json"),
        ({"loss": np.nextafter(0.5, 1)}, "score/metrics.jsonl"),
        ({"weight": np.nextafter(np.float32(1), 2)}, "score/adapter.safetensors"),
        ({"gold": 0.31}, "summary gold/x"),
    ],
)
def test_results_may_not(tmp_path, expected, change, name):
    assert differences(expected, leave(tmp_path / "other", **change)) == [name]


def test_nothing_may_be_left_over(tmp_path, expected):
    leave(tmp_path / "other")
    (tmp_path / "other" / "score" / ".scores.part").write_text("")
    assert differences(expected, contents(tmp_path / "other")) == ["score/.scores.part"]


def test_a_difference_is_an_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kill_test, "kill_test", lambda *arguments: False)
    assert kill_test.main([]) == 1
    monkeypatch.setattr(kill_test, "kill_test", lambda *arguments: True)
    assert kill_test.main([]) == 0
    assert kill_test.main(["--kills", "0"]) == 2
    assert kill_test.main(["--keep", f"{tmp_path}"]) == 2
    assert "the folder is new" in capsys.readouterr().err
