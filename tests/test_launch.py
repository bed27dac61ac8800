"""The command line: flags, config files, changes to them, and exit codes."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from narrative_jax import launch, pipeline
from narrative_jax.core import processes
from narrative_jax.core.config import find, load
from narrative_jax.runs.tables import Tables

RECIPES = Path(__file__).parents[1] / "configs"
CONFIG = """
from ml_collections import ConfigDict
from narrative_jax.core.errors import check_name

def get_config(variant=""):
    check_name("variant", variant, ("", "tiny"))
    return ConfigDict({
        "seed": 0, "rate": 1e-3, "fast": False, "scenes": "", "limit": None, "weights": (1.0, 0.5),
        "stages": ("first", "second"),
        "first": {"stage": "make", "size": 2 if variant else 8, "hyper": {"beta": 500.0}},
        "second": {"stage": "make", "size": 1, "hyper": {"beta": 1.0}},
    })
"""
UNWRITABLE = "configs/a.py/x: it cannot be written (Not a directory)"  # root may write wherever there is a folder


@dataclass(frozen=True)
class Options:
    size: int
    hyper: dict[str, float]


def make(run):
    return SimpleNamespace(Options=Options, run=run)


STAGES = {"make": make(lambda context, options: {"size": options.size})}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with configs/a.py, in which stages are those of this file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "default_tables", lambda: Tables(stages=STAGES))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.py").write_text(CONFIG)
    return tmp_path


def bad(capsys, *arguments):
    """The one line on stderr of a command that exits with 2 and writes nothing."""
    before = sorted(Path().rglob("*"))
    assert launch.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before, "nothing half-written"
    return err


def written(workdir="runs/a"):
    return json.loads(Path(workdir, "config.json").read_text())


def test_a_run_and_its_directory(folder):
    assert launch.main(["--config=configs/a.py"]) == 0
    assert launch.main(["--config", "configs/a.py:tiny", "--stage", "first"]) == 0
    assert launch.main(["--config=configs/a.py:tiny", "--workdir=elsewhere/b"]) == 0
    assert written()["first"]["size"] == 8 and written("runs/a-tiny")["first"]["size"] == 2
    assert not Path("runs/a-tiny/second").exists()
    assert json.loads(Path("elsewhere/b/summary.json").read_text())["first/size"] == 2


def test_changes_take_the_type_that_stands_there(folder):
    changes = [
        "seed=-3",
        "rate=1",
        "fast=true",
        "scenes=12",
        "limit=7",
        "weights=[1, 2]",
        'stages=("first",)',
        "first.hyper.beta=2e3",
    ]
    assert launch.main(["--config=configs/a.py", *(f"--config.{change}" for change in changes)]) == 0
    config = written()
    assert config["second"] == {"stage": "make", "size": 1, "hyper": {"beta": 1.0}}
    config = {key: config[key] for key in ("seed", "rate", "fast", "scenes", "limit", "weights", "stages", "first")}
    assert repr(config) == repr(
        {
            "seed": -3,
            "rate": 1.0,
            "fast": True,
            "scenes": "12",
            "limit": 7,
            "weights": [1.0, 2.0],
            "stages": ["first"],
            "first": {"hyper": {"beta": 2000.0}, "size": 8, "stage": "make"},
        }
    )


def test_where_none_stands_a_word_is_a_string(folder):
    assert launch.main(["--config=configs/a.py", "--config.limit=some/file"]) == 0
    assert written()["limit"] == "some/file"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("sede=1", "unknown config key 'sede': known are fast, first, limit, rate,"),
        ("sede=1", "did you mean 'seed'?"),
        (
            "first.szie=1",
            "unknown config key 'first.szie': known in first are hyper, size, stage; did you mean 'first.s",
        ),
        ("first.hyper.bta=1", "known in first.hyper are beta; did you mean 'first.hyper.beta'?"),
        ("hyper.beta=1", "did you mean 'first.hyper.beta'?"),
        ("seed.x=1", "unknown config key 'seed.x': seed is a value, not a section"),
        ("first=1", "first is a section with hyper, size, stage; set one of these"),
        ("seed=many", "--config.seed=many: a value of type int is expected, like 0"),
        ("seed=1.5", "a value of type int is expected"),
        ("seed=True", "a value of type int is expected"),
        ("seed=", "a value of type int is expected"),
        ("rate=fast", "a value of type float is expected, like 0.001"),
        ("rate=True", "a value of type float is expected"),
        ("fast=1", "a value of type bool is expected, like False"),
        ("fast=yes", "a value of type bool is expected"),
        ("stages=('first')", "a value of type tuple is expected, like ('first', 'second')"),
        ("stages=('first', 2)", "a value of type tuple is expected"),
        ("weights=('a', 'b')", "a value of type tuple is expected"),
        ("seed", "--config.seed: a value follows its key after '='; write --config.seed=VALUE"),
        ("stages=('first', 'secnod')", "unknown entry in stages 'secnod': known are first, second; did you mean 'sec"),
        ("second.stage=maek", "unknown stage of second 'maek': known are make; did you mean 'make'?"),
    ],
)
def test_bad_changes(folder, capsys, change, message):
    assert message in bad(capsys, "--config=configs/a.py", f"--config.{change}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config: it names a config file; give one"),
        (
            ("--config=configs/b.py",),
            "config configs/b.py: no such file; there are configs/a.py, adpo, dpo, encoders, nireward, pretrain, "
            "reward, score, uper; "
            "did you mean 'configs/a.py'?",
        ),
        (
            ("--config=confgs/a.py",),
            "config confgs/a.py: no such file; there are adpo, dpo, encoders, nireward, pretrain, reward, score, uper",
        ),
        (
            ("--config=adop:tiny",),
            "config adop:tiny: no such file; there are adpo, dpo, encoders, nireward, pretrain, reward,",
        ),
        (("--config=elsewhere/adpo.py:tiny",), "config elsewhere/adpo.py:tiny: no such file; there are adpo, dpo, "),
        (("--config=elsewhere/adpo.py:tiny",), "did you mean 'adpo'?"),
        (("--config",), "argument --config: expected one argument; see --help"),
        (
            ("--config=configs/a.py", os.fsdecode(b"--config.scenes=caf\xe9")),
            r"argument '--config.scenes=caf\udce9': arguments are UTF-8; write it in UTF-8",
        ),
        (("--config=configs/a.py:tinny",), "unknown variant 'tinny': known are tiny; did you mean 'tiny'?"),
        (("--config=configs/a.py", "--worcdir=x"), "unknown flag '--worcdir': known are --config, --workdir,"),
        (("configs/a.py",), "unknown flag 'configs/a.py'"),
        (
            ("--config=configs/a.py", "--stage=frst"),
            "unknown stage 'frst': known are first, second; did you mean 'first'?",
        ),
        (
            ("--config=configs/a.py", "--redo=frst"),
            "unknown entry to redo 'frst': known are first, second; did you mean 'first'?",
        ),
        (("--config=configs/a.py", "--stage=second", "--workdir=configs/a.py/x"), UNWRITABLE),
    ],
)
def test_bad_flags(folder, capsys, arguments, message):
    assert message in bad(capsys, *arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = x +\n", "config configs/c.py, line 2: SyntaxError: invalid syntax; correct the file"),
        ("def get_config(variant):\n    return one\n", "configs/c.py, line 2: NameError: name 'one' is not defined"),
        (
            "import no_such_module\n",
            "config configs/c.py, line 1: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("config = 1\n", "config configs/c.py: it defines get_config(variant) and returns a ConfigDict from it"),
        ("def get_config(variant):\n    return {}\n", "returns a ConfigDict"),
        ("raise ValueError('one\\ntwo')", "config configs/c.py, line 1: ValueError: one two; correct the file"),
        ("def get_config():\n    return {}\n", "config configs/c.py: TypeError: get_config() takes 0 positional"),
    ],
)
def test_bad_config_files(folder, capsys, text, message):
    Path("configs/c.py").write_text(text)
    assert message in bad(capsys, "--config=configs/c.py")


def test_another_config_s_workdir(folder, capsys):
    assert launch.main(["--config=configs/a.py"]) == 0
    capsys.readouterr()
    message = "entry 'first' of runs/a: it was made from something else: seed (0 there, 1 here); --redo=first,second "
    assert message in bad(capsys, "--config=configs/a.py", "--config.seed=1")


def test_what_is_done_is_done_again_where_one_asks_for_it(folder, capsys):
    command = ["--config=configs/a.py", "--config.first.size=9"]
    assert launch.main(["--config=configs/a.py"]) == 0
    said = "first.size (8 there, 9 here); --redo=first does first again; or choose another --workdir\n"
    capsys.readouterr()
    assert bad(capsys, *command).endswith(said)
    assert launch.main([*command, "--redo=first"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("first: done in ") and second.startswith("second: done before (--redo=second does it ag")
    assert json.loads(Path("runs/a/summary.json").read_text())["first/size"] == written()["first"]["size"] == 9


def test_a_check_runs_nothing(folder, capsys):
    assert launch.main(["--config=configs/a.py", "--check"]) == 0
    assert capsys.readouterr().out == "configs/a.py: all is in order\n" and not Path("runs").exists()
    assert "stages ()" in bad(capsys, "--config=configs/a.py", "--check", "--config.stages=()")


def test_a_recipe_goes_by_its_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("adpo:tiny") == (str(RECIPES / "adpo.py"), "tiny")
    for recipe in RECIPES.glob("*.py"):
        assert load(recipe.stem).to_json() == load(str(recipe)).to_json()
    (tmp_path / "adpo").write_text("")
    assert load("adpo:tiny").align.total_steps == 4, "a name is a recipe's, whatever lies here"


@pytest.mark.parametrize("path", ["my:configs/a.py", "C:/a.py", "my:configs/a:b.py", "a.py:tiny"])
def test_a_path_may_have_colons(folder, path):
    """What follows the last one is the variant, unless the whole is a file."""
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(CONFIG)
    assert find(path) == (path, "") and find(f"{path}:tiny") == (path, "tiny")
    assert launch.main([f"--config={path}:tiny"]) == 0
    assert written(f"runs/{Path(path).stem}-tiny")["first"]["size"] == 2


def test_a_tilde_is_the_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    shutil.copytree("configs", "home/configs")
    for flags in (["--config=~/configs/a.py", "--workdir=~/one"], ["--config", "~/configs/a.py", "--workdir", "~/two"]):
        assert launch.main([*flags, "--config.limit=~/mine", "--config.scenes=~/a.jsonl"]) == 0
    for workdir in ("home/one", "home/two"):
        assert written(workdir)["limit"] == f"{folder}/home/mine" and not Path("~").exists()
        assert written(workdir)["scenes"] == f"{folder}/home/a.jsonl"
    text = Path("configs/a.py").read_text().replace('"scenes": ""', '"scenes": "~/a.jsonl"')
    Path("configs/c.py").write_text(text)
    assert launch.main(["--config=configs/c.py"]) == 0
    assert written("runs/c")["scenes"] == f"{folder}/home/a.jsonl"


def test_in_a_thread_and_beside_a_running_event_loop(folder):
    """As a notebook calls it: signals are the main thread's, and the kernel's loop is running."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    codes = []
    thread = Thread(target=lambda: codes.append(launch.main(["--config=configs/a.py"])))
    thread.start()
    thread.join()

    async def cell():
        codes.append(launch.main(["--config=configs/a.py:tiny"]))
        codes.append(launch.main(["--confg=configs/a.py"]))
        codes.append(launch.main(["--help"]))

    asyncio.run(cell())
    assert codes == [0, 0, 2, 0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.slow
def test_a_real_run_in_a_thread_and_beside_a_running_event_loop(tmp_path):
    lines = [
        "import asyncio, sys, threading",
        "from narrative_jax import launch",
        "flags = ['--config=adpo:tiny', '--config.report=false']",
        "async def cell(): sys.exit(launch.main(flags))",
        "thread = threading.Thread(target=lambda: launch.main([*flags, '--stage=reference']))",
        "thread.start(), thread.join()",
        "asyncio.run(cell())",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "reference: done before" in done.stdout and (tmp_path / "runs/adpo-tiny/evaluate/manifest.json").exists()


@pytest.mark.slow
def test_what_a_run_compiled_it_does_not_compile_again(tmp_path):
    command = [sys.executable, "-m", "narrative_jax.launch", "--config=adpo:tiny", "--stage=reference"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}

    def launched(*flags, **more):
        done = subprocess.run(
            [*command, *flags], cwd=tmp_path, env=environment | more, capture_output=True, text=True, check=True
        )
        return done.stderr

    launched()
    kept = sorted(path.name for path in (tmp_path / "runs/adpo-tiny/.compiled").glob("jit_run-*"))
    again = launched("--redo=reference", JAX_LOG_COMPILES="1")
    compiled, read = "XLA compilation of jit(run)", "Persistent compilation cache hit for 'jit_run'"
    assert kept and again.count(read) == again.count(compiled) > 0
    launched("--redo=reference", JAX_COMPILATION_CACHE_DIR="elsewhere")
    assert list((tmp_path / "elsewhere").glob("jit_run-*")), "a folder of one's own is used"


def test_a_defect_is_raised(folder, monkeypatch):
    monkeypatch.setitem(STAGES, "make", make(lambda context, options: {}["missing"]))
    with pytest.raises(KeyError):
        launch.main(["--config=configs/a.py"])


def test_a_full_disk_is_bad_input(folder, capsys, monkeypatch):
    def full(context, options):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(STAGES, "make", make(full))
    assert launch.main(["--config=configs/a.py"]) == 2
    assert capsys.readouterr().err == "[Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "one"}, False),
        ({"TPU_WORKER_HOSTNAMES": "one,two"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "one:1234"}, True),
    ],
)
def test_several_processes_join_where_the_environment_says_so(folder, monkeypatch, environment, several):
    group = SimpleNamespace(count=1, index=0, gather=lambda what, value: [value], leave=lambda: found.append("left"))
    found = []

    def come_together(given):
        found.append(given)
        return group

    monkeypatch.setattr(processes, "_come_together", come_together)
    monkeypatch.setattr(os, "environ", environment)
    assert launch.main(["--config=configs/a.py"]) == 0
    assert found == ([environment, "left"] if several else [])


# Stages of a process of its own: one that waits for the signal to stop, and saves.
WAITING = """
import sys, time
from dataclasses import make_dataclass
from types import SimpleNamespace
from narrative_jax import launch, pipeline
from narrative_jax.core.errors import Stopped
from narrative_jax.runs.tables import Tables

def wait(context, options):
    print("at work", flush=True)
    while not context.stop.requested:
        time.sleep(0.01)
    (context.folder / "saved").touch()
    raise Stopped

make = SimpleNamespace(Options=make_dataclass("Options", [("size", int), ("hyper", dict[str, float])]), run=wait)
pipeline.default_tables = lambda: Tables(stages={"make": make})
sys.exit(launch.main(sys.argv[1:]))
"""


@contextmanager
def at_work(script):
    """The script as a process that has come to its stage; killed at the end, should it still live."""
    command = [sys.executable, "-c", script, "--config=configs/a.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "at work\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_75(folder, number):
    with at_work(WAITING) as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 75
    *notice, last = err.splitlines()
    assert last == "stopped after saving; run the same command again to go on"
    assert len(notice) == (2 if number == signal.SIGINT else 0)
    assert Path("runs/a/first/saved").exists() and not Path("runs/a/first/manifest.json").exists()


def test_a_second_interrupt_ends_at_once(folder):
    with at_work(WAITING.replace("while not context.stop.requested", "while True")) as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n" and "Ctrl-C again" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == -signal.SIGINT


def test_as_a_command_bad_input_is_fast(folder):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "narrative_jax.launch", "--config=configs/a.py", "--config.sede=1"],
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (done.returncode, done.stdout) == (2, "")
    assert len(lines) == 1 and "did you mean 'seed'?" in lines[0]
    assert " jax\n" not in done.stderr, "a slip in the flags does not wait for JAX"
    assert [path.name for path in folder.iterdir()] == ["configs"]
