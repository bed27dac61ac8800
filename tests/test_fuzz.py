"""The fuzzer damages in every way it says, finds a reader that breaks, and finds none of ours."""

from pathlib import Path

import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.study import fuzz
from narrative_jax.study.damaged import Target, mutations, put, targets
from narrative_jax.study.fuzz import as_commands, in_process, main, measured


def test_every_way_of_damage():
    rng, whole = np.random.default_rng(0), b'{"id": "1", "prompt": "a dog"}'
    flipped, cut, doubled, swapped = list(mutations(whole, 4, rng))
    assert len(flipped) == len(whole) and flipped != whole
    assert whole.startswith(cut) and len(cut) < len(whole) < len(doubled)
    assert sorted(swapped) == sorted(whole)
    assert len(list(mutations(b"\x89PNG", 7, rng))) == 7


def test_what_breaks_is_found(tmp_path):
    def read(path):
        data = path.read_bytes()
        if len(data) > 6:
            raise InputError("it", "is long", "cut it")
        if data[:1] == b"a":
            raise KeyError("a")
        return data

    found = in_process(Target(b"abcdef", "x", read, lambda path: []), 300, tmp_path, np.random.default_rng(0))
    assert sum(found.counts.values()) == 300 and min(found.counts.values()) > 20
    assert len(found.wrong) == found.counts["neither"] and found.wrong[0].startswith("x: KeyError: 'a'")


def test_commands_that_break_are_found(tmp_path):
    """Python's own: `-m json.tool` ends with 1 for what is no JSON, and may leave a file."""
    leaves = Target(b'{"a": 1}', "x.json", Path.read_bytes, lambda path: ["json.tool", f"{path}", f"{path}.out"])
    found = as_commands(leaves, 4, tmp_path, np.random.default_rng(0))
    assert found.counts["neither"] and any("exit 1" in each for each in found.wrong)
    assert found.seconds > 0 and found.size > 1e6


def test_a_command_is_measured_without_what_measures_it():
    """A process that this one starts is born with this one's peak."""
    held = np.ones(50_000_000)  # 400 MB
    code, said, size = measured(["json.tool", "no.json"])
    assert code != 0 and "no.json" in said and 1e6 < size < 2e8 < held.nbytes


@pytest.mark.slow
def test_none_of_our_readers_breaks(monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(["--mutations=40", "--commands=1", "--seconds=60"]) == 0  # beside other tests
    printed = capsys.readouterr().out
    assert printed.count(" in process ") == printed.count(" as commands ") == 7 and "Wrong: 0." in printed


def test_a_wrong_outcome_is_the_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "_fuzz", lambda options: ["x: KeyError"])
    assert main([]) == 1


def test_what_is_whole_is_read(tmp_path):
    for target in targets(tmp_path).values():
        target.read(put(target, target.seed, tmp_path))
