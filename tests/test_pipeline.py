"""Entries run in order and once, and what is wrong is said before anything is written."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict

import narrative_jax
from narrative_jax import pipeline
from narrative_jax.core.errors import InputError, Stopped, check_count
from narrative_jax.core.stop import StopFlag

calls = []


def _count(context):
    """Leaves a file, counts its calls, and returns a shared number and one of its own."""
    calls.append(context.name)
    (context.folder / "made").write_text("".join(context.path(n).name for n in (context.entry.get("source"),) if n))
    return {"pictures": 4, "screen/pairs": 2.5}


def _check(config, entry):
    if entry.size % 2:
        raise InputError(f"size {entry.size}", "it is even", "add one")


STAGES = {"make": SimpleNamespace(run=_count), "use": SimpleNamespace(run=_count, check=_check, INPUTS=("source",))}


def config(**changes):
    values = {
        "seed": 0,
        "stages": ("first", "second"),
        "first": {"stage": "make"},
        "second": {"stage": "use", "source": "first", "size": 2},
    }
    return ConfigDict(values | changes)


def run(workdir, stage=None, stop=None, **changes):
    calls.clear()
    pipeline.run(config(**changes), workdir, stage, stop, STAGES)
    return list(calls)


def read(path):
    return json.loads(path.read_text())


def test_entries_run_in_order_and_once(tmp_path, capsys):
    workdir = tmp_path / "runs" / "a"
    assert run(workdir) == ["first", "second"]
    assert [line.split(" in ")[0] for line in capsys.readouterr().out.splitlines()] == ["first: done", "second: done"]
    assert (workdir / "second" / "made").read_text() == "first"
    assert read(workdir / "config.json")["stages"] == ["first", "second"]
    assert run(workdir) == []
    (workdir / "second" / "manifest.json").unlink()
    assert run(workdir) == ["second"]


def test_the_summary_is_flat_and_loses_no_number(tmp_path):
    run(tmp_path)
    numbers = read(tmp_path / "summary.json")
    times = {key: numbers.pop(key) for key in list(numbers) if key.startswith("time/")}
    assert numbers.pop("memory/peak_bytes") > 2**24
    assert numbers == {"first/pictures": 4, "screen/pairs": 2.5, "second/pictures": 4, "second/screen/pairs": 2.5}
    total = times.pop("time/total_seconds")
    assert set(times) == {"time/first_seconds", "time/second_seconds"}
    assert total == sum(times.values())


def test_what_is_no_number_is_a_defect(tmp_path):
    with pytest.raises(ValueError, match="first returned loss = nan"):
        pipeline.run(
            config(stages=("first",)),
            tmp_path,
            stages={"make": SimpleNamespace(run=lambda _: {"loss": float("nan")})} | {"use": STAGES["use"]},
        )
    assert not (tmp_path / "first" / "manifest.json").exists()


def test_the_report_is_written_once_all_is_done(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(narrative_jax, "report", SimpleNamespace(write=written.append), raising=False)
    run(tmp_path, "first", report=True)
    assert not written
    run(tmp_path, "second", report=True)
    assert written == [tmp_path]
    run(tmp_path / "without")
    assert written == [tmp_path]


def test_one_stage_needs_its_inputs(tmp_path):
    with pytest.raises(InputError, match=r"stage second: it needs 'first'.*run --stage=first first"):
        run(tmp_path, "second")
    assert run(tmp_path, "first") == ["first"]
    assert run(tmp_path, "second") == ["second"]
    with pytest.raises(InputError, match="did you mean 'second'"):
        run(tmp_path, "secnd")


def test_a_stop_between_entries(tmp_path):
    stop = StopFlag()

    def ask(context):
        stop.requested = True

    with pytest.raises(Stopped):
        pipeline.run(config(), tmp_path, None, stop, STAGES | {"make": SimpleNamespace(run=ask)})
    assert (tmp_path / "first" / "manifest.json").exists() and not (tmp_path / "second").exists()
    assert run(tmp_path) == ["second"]


def test_time_adds_up_over_runs(tmp_path, monkeypatch):
    clock = iter([0.0, 10.0, 10.0, 100.0, 105.0])
    monkeypatch.setattr(pipeline, "time", SimpleNamespace(monotonic=lambda: next(clock, 105.0)))

    def stop(context):
        next(clock)
        raise Stopped

    with pytest.raises(Stopped):
        pipeline.run(config(), tmp_path, "first", None, STAGES | {"make": SimpleNamespace(run=stop)})
    run(tmp_path, "first")
    assert read(tmp_path / "first" / "manifest.json")["seconds"] == 15.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ("first", "secnd")}, r"unknown entry in stages 'secnd': known are first, second; did you mean"),
        ({"stages": ("second", "first")}, r"second needs 'first', which does not come before it; list 'first' before"),
        ({"stages": ("first", "first")}, "an entry runs once"),
        ({"stages": "first"}, "stages 'first': it is a tuple"),
        ({"stages": ()}, "it is a tuple"),
        ({"first": {"stage": "mkae"}}, r"unknown stage of first 'mkae': known are make, use; did you mean 'make'\?"),
        ({"second": {"stage": "use", "source": "frist", "size": 2}}, "second needs 'frist'"),
        ({"second": {"stage": "use", "source": "first", "size": 3}}, "size 3: it is even; add one"),
        ({"seed": float("inf")}, "the config: its values are numbers"),
    ],
)
def test_a_wrong_config_writes_nothing(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "run", **changes)
    assert not calls and not list(tmp_path.iterdir())


def test_a_directory_of_another_config(tmp_path):
    run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError) as caught:
        run(tmp_path, seed=1, second={"stage": "use", "source": "first", "size": 4, "new": 1})
    for words in ("seed (0 there, 1 here)", "second.size (2 there, 4 here)", "second.new (absent there, 1 here)"):
        assert words in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_has_left_nothing_may_change(tmp_path):
    """A slip that is found late does not spoil the directory, nor what was made before it."""
    wrong = {"stage": "use", "source": "first", "size": 4}
    fails = STAGES | {"use": SimpleNamespace(run=lambda context: check_count("size", context.entry.size, 9))}
    with pytest.raises(InputError, match="size 4"):
        pipeline.run(config(second=wrong), tmp_path, None, None, fails)
    assert run(tmp_path) == ["second"] and read(tmp_path / "config.json")["second"]["size"] == 2
    with pytest.raises(InputError, match=r"differs in second.size \(2 there, 4 here\)"):
        run(tmp_path, second=wrong)


def test_the_scenes_choose_what_the_config_leaves_open(tmp_path):
    def judge(**changes):
        entry = {"stage": "make", "reward": "", **changes.pop("first", {})}
        return pipeline.completed(config(**{"scenes": "", "on_no_pairs": "", **changes}, first=entry))

    assert (judge().first.reward, judge().on_no_pairs) == ("raters", "stop")
    own = judge(scenes="mine.jsonl")
    assert (own.first.reward, own.on_no_pairs) == ("picture_statistics", "skip")
    assert judge(scenes="mine.jsonl", on_no_pairs="stop", first={"reward": "oracle"}).first.reward == "oracle"
    pipeline.run(own, tmp_path, None, None, STAGES)
    assert read(tmp_path / "config.json")["first"]["reward"] == "picture_statistics"


def test_a_manifest_cut_short_is_named(tmp_path):
    run(tmp_path)
    (tmp_path / "second" / "manifest.json").write_text('{"stage": "u')
    with pytest.raises(InputError, match=r"second/manifest.json: it is not the JSON that a run writes.*; remove it"):
        run(tmp_path)


def test_one_run_at_a_time(tmp_path):
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match="another run is at work there"):
            run(tmp_path)
        assert not (tmp_path / "config.json").exists()
        other.kill()
    assert run(tmp_path) == ["first", "second"], "the lock goes with the process"
