"""Entries run in order and once, what is stale is not taken for done, and what is wrong is said before anything is
written.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict
from PIL import Image

import narrative_jax
from narrative_jax import pipeline
from narrative_jax.core import hashing
from narrative_jax.core.errors import InputError, Stopped, check_count
from narrative_jax.core.options import File
from narrative_jax.core.stop import StopFlag
from narrative_jax.models.lora import read_adapter
from narrative_jax.runs import provenance, summary
from narrative_jax.runs.directory import read_config
from narrative_jax.runs.tables import Tables

calls = []


@dataclass(frozen=True)
class Make:
    """Options of a stage that makes something of nothing, or of a file."""

    reward: str = ""
    file: File = ""
    total_steps: int = 1
    decay: str = "constant"
    save_every: int = 1
    sample_every: int = 0


@dataclass(frozen=True)
class Use:
    """Options of a stage that makes something of what another made."""

    source: str
    size: int
    new: int = 0


def _count(context, options):
    """Leaves a file, counts its calls, and returns a shared number and one of its own."""
    calls.append(context.name)
    (context.folder / "made").write_text("".join(context.path(n).name for n in (context.entry.get("source"),) if n))
    return {"pictures": 4, "screen/pairs": 2.5}


def _check(context, options):
    if options.size % 2:
        raise InputError(f"size {options.size}", "it is even", "add one")


def _ended_by(options):
    return "" if options.decay == "constant" else f"decay {options.decay} is over"


def make(run=_count):
    return SimpleNamespace(Options=Make, run=run, ended_by=_ended_by)


STAGES = {"make": make(), "use": SimpleNamespace(Options=Use, run=_count, check=_check, INPUTS=("source",))}


def config(**changes):
    values = {
        "seed": 0,
        "stages": ("first", "second"),
        "first": {"stage": "make"},
        "second": {"stage": "use", "source": "first", "size": 2},
    }
    return ConfigDict(values | changes)


def run(workdir, stage=None, stop=None, redo=None, table=None, **changes):
    """The entries that were at work, in order."""
    calls.clear()
    pipeline.run(config(**changes), workdir, stage, stop, Tables(stages=STAGES | (table or {})), redo)
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
        run(tmp_path, table={"make": make(lambda *_: {"loss": float("nan")})})
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

    def ask(context, options):
        (context.folder / "made").touch()
        stop.requested = True

    with pytest.raises(Stopped):
        run(tmp_path, stop=stop, table={"make": make(ask)})
    assert (tmp_path / "first" / "manifest.json").exists() and not (tmp_path / "second").exists()
    assert run(tmp_path) == ["second"]


def test_time_adds_up_over_runs(tmp_path, monkeypatch):
    clock = iter([0.0, 10.0, 10.0, 100.0, 105.0])
    monkeypatch.setattr(summary, "time", SimpleNamespace(monotonic=lambda: next(clock, 105.0)))

    def stop(context, options):
        next(clock)
        raise Stopped

    with pytest.raises(Stopped):
        run(tmp_path, "first", table={"make": make(stop)})
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
        ({"second": {"stage": "use", "source": "first", "sise": 2}}, "unknown option of second 'sise'.*mean 'size'"),
        ({"second": {"stage": "use", "source": "first"}}, "second: 'size' is missing, it has no default; set second.s"),
        ({"second": {"stage": "use", "source": "first", "size": "2"}}, "second.size '2': it is an integer; give such"),
        ({"seed": float("inf")}, "the config: its values are numbers"),
    ],
)
def test_a_wrong_config_writes_nothing(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "run", **changes)
    assert not calls and not list(tmp_path.iterdir())


def test_the_scenes_choose_what_the_config_leaves_open(tmp_path):
    def judge(**changes):
        entry = {"stage": "make", "reward": "", **changes.pop("first", {})}
        return pipeline.completed(config(**{"scenes": "", "on_no_pairs": "", **changes}, first=entry))

    assert (judge().first.reward, judge().on_no_pairs) == ("raters", "stop")
    own = judge(scenes="mine.jsonl")
    assert (own.first.reward, own.on_no_pairs) == ("picture_statistics", "skip")
    assert judge(scenes="mine.jsonl", on_no_pairs="stop", first={"reward": "oracle"}).first.reward == "oracle"
    pipeline.run(own, tmp_path, tables=Tables(stages=STAGES))
    assert read(tmp_path / "config.json")["first"]["reward"] == "picture_statistics"


def test_the_section_of_the_reward_that_was_not_chosen_is_left_out():
    """It would be an option that means nothing; one that somebody named stays, whether it is used or not."""
    both = {"stage": "make", "raters": {"seeds": (0,)}, "picture_statistics": {}}
    sections = {"raters", "picture_statistics"}

    def kept(reward, scenes):
        return sections & set(pipeline.completed(config(scenes=scenes, first={**both, "reward": reward})).first)

    assert kept("", "") == {"raters"} and kept("", "mine.jsonl") == {"picture_statistics"}
    assert kept("raters", "mine.jsonl") == sections


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


# Provenance. first and other make something, first of a file; second is made of first, third of second.


def chain(**changes):
    """Changes that make a config of these four entries, and then first__size=4 is one of first's."""
    entries = {
        "first": {"stage": "make", "file": "mine.bin", "total_steps": 2},
        "other": {"stage": "make", "total_steps": 2},
        "second": {"stage": "use", "source": "first", "size": 2},
        "third": {"stage": "use", "source": "second", "size": 2},
    }
    for key in [key for key in changes if "__" in key]:
        entry, _, option = key.partition("__")
        entries[entry][option] = changes.pop(key)
    return {"stages": tuple(entries), **entries, **changes}


@pytest.fixture
def done(tmp_path, monkeypatch):
    """The directory of a finished run of the four, ./run, beside first's file, ./mine.bin."""
    monkeypatch.chdir(tmp_path)
    Path("mine.bin").write_bytes(b"mine")
    assert run(Path("run"), **chain()) == ["first", "other", "second", "third"]
    return Path("run")


def contents(folder):
    """Every file with its bytes and its time."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def refused(workdir, **flags):
    """The one line that a command says that stops and writes nothing."""
    before = contents(workdir)
    with pytest.raises(InputError) as caught:
        run(workdir, **flags)
    assert not calls and contents(workdir) == before and "\n" not in str(caught.value)
    return str(caught.value)


def stale(entry, changed, again):
    """The line about an entry that was made from something else."""
    remedy = f"--redo={entry} does {again} again; or choose another --workdir"
    return f"entry {entry!r} of run: it was made from something else: {changed}; {remedy}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"first__decay": "cosine"}, ("first", "first.decay (absent there, 'cosine' here)", "first, second, third")),
        (
            {"first__file": ""},
            ("first", "first.file ('mine.bin' there, '' here), content of mine.bin", "first, second, third"),
        ),
        (
            {"second__source": "other"},
            (
                "second",
                "second.source ('first' there, 'other' here), what was made of first, what was made of other",
                "second, third",
            ),
        ),
        (
            {"third__size": 4, "third__new": 1},
            ("third", "third.size (2 there, 4 here), third.new (absent there, 1 here)", "third"),
        ),
    ],
)
def test_a_changed_config_stops(done, changes, said):
    assert refused(done, **chain(**changes)) == stale(*said)
    assert run(done, **chain()) == [], "nothing is spoilt for the config that it was made with"
    assert run(done, redo=said[0], **chain(**changes)) == said[2].split(", ")
    assert run(done, **chain(**changes)) == []


def test_what_all_have_in_common_changes_all(done):
    """The remedy names every entry that the others are made from: to redo one of them is not enough."""
    said = "entry 'first' of run: it was made from something else: seed (0 there, 1 here); --redo=first,other does "
    said += "first, other, second, third again; or choose another --workdir"
    assert refused(done, **chain(seed=1)) == said
    assert refused(done, redo="first", **chain(seed=1)) == said.replace("'first'", "'other'")
    assert run(done, redo="first,other", **chain(seed=1)) == ["first", "other", "second", "third"]
    assert run(done, **chain(seed=1)) == []


def test_many_changes_are_counted(done):
    new = {f"new_{place}": place for place in range(10)}
    said = ", ".join(f"new_{place} (absent there, {place} here)" for place in range(8))
    assert f": it was made from something else: {said} and 2 more; --redo=first,other" in refused(done, **chain(**new))


def test_a_touched_file_is_no_change_and_a_changed_one_stops(done):
    file = Path("mine.bin")
    for seconds in (0, -100, 100):
        moment = file.stat().st_mtime_ns + seconds * 10**9
        file.write_bytes(b"mine")
        os.utime(file, ns=(moment, moment))
        assert run(done, **chain()) == []
    file.write_bytes(b"MINE")
    said = stale("first", "content of mine.bin", "first, second, third")
    assert refused(done, **chain()) == said
    assert refused(done, stage="other", **chain()) == said, "whatever is asked for"
    file.unlink()
    assert refused(done, **chain()) == said
    file.write_bytes(b"mine")
    assert run(done, **chain()) == []


def test_a_source_that_is_made_anew_of_something_else(done):
    """By hand: the folder of an entry is removed, and what is in its place is not what others were made of."""
    shutil.rmtree(done / "first")
    changed = chain(first__decay="cosine")
    assert refused(done, **changed) == stale("second", "what was made of first", "second, third")
    assert run(done, redo="second", **changed) == ["first", "second", "third"]


def test_what_is_redone_is_an_entry_and_all_that_is_made_of_it(done):
    before = contents(done)
    assert run(done, redo="second", **chain()) == ["second", "third"]
    kept = {path for path, found in contents(done).items() if before.get(path) == found}
    assert {path.parent.name for path in kept} >= {"first", "other"}
    assert not {path for path in kept if path.parent.name in ("second", "third")}
    assert run(done, **chain()) == []
    assert run(done, redo="first", stage="first", **chain()) == ["first"]
    assert not (done / "second").exists() and not (done / "third").exists()
    assert run(done, **chain()) == ["second", "third"]


def test_redoing_something_else_is_no_help(done):
    Path("mine.bin").write_bytes(b"MINE")
    said = stale("first", "content of mine.bin", "first, second, third")
    assert refused(done, redo="third", **chain()) == refused(done, redo="other", **chain()) == said
    for redo in ("frist", "first,frist"):
        assert refused(done, redo=redo, **chain()).startswith("unknown entry to redo 'frist': known are first, other,")


def test_what_no_result_depends_on_may_change(done):
    changes = {"mesh": {"data": 1}, "report": False, "first__save_every": 7, "first__sample_every": 7}
    assert run(done, **chain(**changes)) == []
    assert run(done, **chain(**changes, stages=("first", "second"))) == []
    changes |= {"stages": ("first", "second"), "first__decay": "cosine"}
    said = stale("first", "first.decay (absent there, 'cosine' here)", "first, second")
    assert refused(done, **{**chain(**changes), "stages": changes["stages"]}) == said


def test_how_often_samples_are_drawn_tells_where_adapters_are_kept_with_them():
    kept = {"sample_every": 2, "keep_adapters": True}
    assert provenance._telling(kept) == kept and provenance._telling({**kept, "keep_adapters": False}).keys() == {
        "keep_adapters"
    }


def test_the_package_itself_may_change(done, monkeypatch):
    monkeypatch.setattr(provenance, "WORLD_VERSION", "another")
    said = "this package's version of the world and its judge; --redo=first,other does first, other, second, third ag"
    assert said in refused(done, **chain())


def test_more_steps_go_on_and_what_was_made_of_fewer_is_made_again(done, capsys):
    longer = chain(first__total_steps=3)
    (done / "first" / "so far").touch()
    (done / "second" / "of fewer").touch()
    assert run(done, **longer) == ["first", "second", "third"]
    assert "first: goes on with more steps; what is made from it is done again\n" in capsys.readouterr().out
    assert (done / "first" / "so far").exists(), "it goes on, nothing of it is removed"
    assert not (done / "second" / "of fewer").exists()
    assert run(done, **longer) == []
    fewer = stale("first", "first.total_steps (3 there, 2 here)", "first, second, third")
    assert refused(done, **chain()) == fewer


def test_more_steps_where_they_cannot_go_on(done):
    """Their learning rates depend on the number: the stage says so."""
    fixed = chain(first__decay="cosine")
    assert run(done, redo="first", **fixed) == ["first", "second", "third"]
    assert refused(done, **chain(first__decay="cosine", first__total_steps=3)) == stale(
        "first", "first.total_steps (2 there, 3 here), decay cosine is over", "first, second, third"
    )


def test_more_steps_of_what_nothing_is_made_of(done):
    assert run(done, **chain(other__total_steps=9)) == ["other"]
    assert run(done, **chain(other__total_steps=9)) == []
    assert refused(done, **chain(other__total_steps=10, other__file="mine.bin")) == stale(
        "other",
        "other.total_steps (9 there, 10 here), other.file (absent there, 'mine.bin' here), content of mine.bin",
        "other",
    )


@pytest.mark.slow
def test_a_longer_training_ends_as_if_it_had_been_so_long_from_the_start(adpo_run, tmp_path):
    """The real one of configs/adpo.py, whose learning rate is constant: 2 steps and 2 more, against 4; judged anew."""
    longer = shutil.copytree(adpo_run, tmp_path / "longer")
    config = ConfigDict(read_config(adpo_run).to_dict())

    def end(workdir):
        numbers = read(workdir / "summary.json")
        numbers = {key: numbers[key] for key in numbers if not key.startswith(("time/", "memory/"))}
        losses = [json.loads(line)["loss"] for line in (workdir / "align" / "metrics.jsonl").read_text().splitlines()]
        *about, weights = read_adapter(workdir / "align" / "adapter.safetensors")
        return about, {key: value.tobytes() for key, value in weights.items()}, losses, numbers

    config.align.total_steps = 2
    pipeline.run(config, longer, redo="align")
    assert len(end(longer)[2]) == 2 and end(longer)[1] != end(adpo_run)[1]
    config.align.total_steps = 4
    pipeline.run(config, longer)
    assert end(longer) == end(adpo_run)
    picture, inputs = longer / "align" / "samples" / "step-000002.png", longer / "align" / "inputs.json"
    assert picture.stat().st_mtime_ns < inputs.stat().st_mtime_ns, "it went on, not from the start"


@pytest.mark.slow
def test_a_training_whose_learning_rate_has_decayed_takes_no_more_steps(adpo_run, tmp_path):
    workdir, config = shutil.copytree(adpo_run, tmp_path / "run"), ConfigDict(read_config(adpo_run).to_dict())
    config.align.optimizer.decay = "cosine"
    pipeline.run(config, workdir, "align", redo="align")
    config.align.total_steps = 6
    said = (
        r"align.total_steps \(4 there, 6 here\), optimizer.decay 'cosine' ends with the last step, no more can follow; "
    )
    with pytest.raises(InputError, match=said + "--redo=align does align again; or choose another --workdir"):
        pipeline.run(config, workdir)


def test_what_has_left_nothing_may_change(tmp_path):
    """A slip that is found late does not spoil the directory, nor what was made before it."""
    wrong = {"stage": "use", "source": "first", "size": 4}
    fails = SimpleNamespace(
        Options=Use, INPUTS=("source",), run=lambda _, options: check_count("size", options.size, 9)
    )
    with pytest.raises(InputError, match="size 4"):
        run(tmp_path, table={"use": fails}, second=wrong)
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == ["elapsed.json", "inputs.json"]
    assert run(tmp_path) == ["second"] and read(tmp_path / "config.json")["second"]["size"] == 2
    with pytest.raises(InputError, match=r"'second' of .*something else: second.size \(2 there, 4 here\); --redo=sec"):
        run(tmp_path, second=wrong)


def test_a_chunk_of_another_config_stops(tmp_path, monkeypatch):
    """It would be taken for a part of what this one makes."""
    monkeypatch.chdir(tmp_path)

    def stop(context, options):
        (context.folder / "chunks").mkdir()
        raise Stopped

    with pytest.raises(Stopped):
        run(Path("run"), table={"make": make(stop)})
    said = stale("first", "first.decay (absent there, 'cosine' here)", "first")
    assert refused(Path("run"), first={"stage": "make", "decay": "cosine"}) == said
    assert refused(Path("run"), stage="second", first={"stage": "make", "decay": "cosine"}) == said
    assert run(Path("run")) == ["first", "second"]


def test_what_says_nothing_of_its_making_stops(done):
    inputs = read(done / "second" / "inputs.json")
    assert inputs["options"]["second"] == {"stage": "use", "source": "first", "size": 2}
    (done / "second" / "inputs.json").unlink()
    assert refused(done, **chain()) == stale("second", "nothing says what it was made from", "second")
    (done / "second" / "inputs.json").write_text('{"options": {"se')
    assert "run/second/inputs.json: it is not the JSON that a run writes" in refused(done, **chain())


def test_changed_photos_behind_an_unchanged_file(tmp_path, monkeypatch):
    """What the lines of a JSONL file name, the photos and the prompts' files of a folder: all are its content."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for place, name in enumerate(("mara.png", "photos/ivo.png", "nobody.png")):
        Image.new("RGB", (4, 4), (place, 0, 0)).save(name)
    lines = [{"prompt": "no picture", "subjects": [{"images": [name]}]} for name in ("mara.png", "photos/ivo.png")]
    Path("scenes.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def again(**changes):
        return run(Path("run"), **{"scenes": "scenes.jsonl", "first": {"stage": "make", "file": "photos"}, **changes})

    assert again() == ["first", "second"] and again() == []
    Image.new("RGB", (4, 4), (9, 9, 9)).save("nobody.png")
    assert again() == [], "no line names it"
    Image.new("RGB", (4, 4), (9, 9, 9)).save("mara.png")
    with pytest.raises(InputError) as caught:
        again()
    assert str(caught.value) == stale("first", "content of scenes.jsonl", "first, second")
    assert again(redo="first") == ["first", "second"]
    Image.new("RGB", (4, 4), (9, 9, 9)).save("photos/ivo.png")
    with pytest.raises(InputError) as caught:
        again()
    assert str(caught.value) == stale("first", "content of photos, content of scenes.jsonl", "first, second")


def test_a_file_that_was_not_touched_is_read_once(done, monkeypatch):
    """Weights may be gigabytes, and several entries read them."""
    shared, file, read = chain(other__file="mine.bin"), Path("mine.bin"), []
    assert run(done, redo="other", **shared) == ["other"]

    def counting(path, mode):
        read.append(Path(path).name)
        return open(path, mode)

    monkeypatch.setattr(hashing, "open", counting, raising=False)
    for seconds in (100, 50):
        moment = time.time_ns() - seconds * 10**9
        os.utime(file, ns=(moment, moment))
        for times in (1, 0, 0):
            read.clear()
            assert run(done, **shared) == [] and read.count("mine.bin") == times
    os.utime(file)  # a file that has just been written may change within the grain of its time
    for _ in range(2):
        read.clear()
        assert run(done, **shared) == [] and "mine.bin" in read
