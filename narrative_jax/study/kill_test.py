"""Kills runs at random moments and compares their ends: `python -m narrative_jax.study.kill_test`.

Each run is killed once (SIGKILL), started again, and must end with the bits of an undisturbed one: weights, optimiser,
data position, metrics, pictures, scores, preferences and summary; only times, memory and compilations may differ. Run
it from the repository's root.
"""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from narrative_jax.core.command import DONE, Parser, run
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.data.datasets import open_records
from narrative_jax.data.kinds import KINDS
from narrative_jax.runs.directory import COMPILED

DIFFERENT = 1
OF_THE_PROCESS = ("time/", "memory/", "compile/")  # keys of the summary that tell of the process, not of the result
LOGS = ("config.json", "manifest.json", "elapsed.json", "summary.json", "metrics.jsonl", "report.html")
HIDDEN = (".lock", ".hashes.json", COMPILED)


@dataclass(frozen=True)
class Launcher:
    """Starts runs of one config; what one of them compiled, the others read."""

    config: str
    folder: Path

    def start(self, workdir: Path) -> subprocess.Popen:
        """The config's recipe on weights that draw something: an untrained network passes no gradient to adapters."""
        changes = [f"--config.generator.weights={self.folder / 'weights.safetensors'}"]
        command = [sys.executable, "-m", "narrative_jax.launch", f"--config={self.config}", f"--workdir={workdir}"]
        compiled = {"JAX_COMPILATION_CACHE_DIR": f"{self.folder / 'compiled'}"}
        with open(workdir.with_suffix(".log"), "a") as log:
            return subprocess.Popen([*command, *changes], stdout=log, stderr=log, env={**os.environ, **compiled})

    def finish(self, workdir: Path) -> float:
        """Run to the end; returns the seconds since it first wrote. Raises InputError where it ends otherwise."""
        if code := self.start(workdir).wait():
            log = workdir.with_suffix(".log").read_text().splitlines()
            rule = f"the run ended with exit code {code} ({log[-1] if log else 'and no word'})"
            raise InputError(f"{workdir}", rule, f"read {workdir.with_suffix('.log')}")
        return time.time() - (workdir / "config.json").stat().st_mtime

    def kill(self, workdir: Path, begun: str, seconds: float) -> bool:
        """Kill a run so many seconds after it wrote `begun` in its directory; False where it was at its end before."""
        process = self.start(workdir)
        while not (workdir / begun).exists() and process.poll() is None:
            time.sleep(0.01)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True
        return False


def write_weights(path: Path, preset: str, seed: int) -> None:
    """Weights of a denoiser of which none is 0, for a preset."""
    from narrative_jax.core.options import parse
    from narrative_jax.models.checkpoints import save_weights
    from narrative_jax.models.network import below
    from narrative_jax.runs.tables import Tables

    rng, chosen = np.random.default_rng(seed), Tables().presets[preset]
    generator, params = chosen.load(parse(chosen.Options, {"weights": "random"}, "generator"), seed)
    drawing = below(generator.denoiser, params)
    shaken = {name: value + 0.1 * np.float32(rng.normal(size=value.shape)) for name, value in drawing.items()}
    save_weights(path, shaken, generator.names[generator.denoiser])


def contents(workdir: Path) -> dict[str, str]:
    """A hash of each thing that a run leaves and that a kill must not change, by path.

    Files are compared as they are, but for those that hold the same in more than one way.
    """
    found = {}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir).as_posix()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_bytes().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key != "step_seconds"} for line in lines]
        elif path.name == "checkpoints":
            found[name] = _newest_state(path)
        elif path.name == "dataset_info.json":
            kind = json.loads(path.read_bytes())["name"]
            records = open_records(path.parent, next(each for each in KINDS if KINDS[each].name == kind))
            found[name] = pickle.dumps([vars(record) for record in records])
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                tensors = {key: file.get_tensor(key).tobytes().hex() for key in file.keys()}  # noqa: SIM118
                found[name] = {**tensors, "metadata": file.metadata()}
        elif "array_record" in path.name:
            found[name] = b""  # shards order their blocks as threads have it; what is in them is compared above
        elif path.is_file() and not {*LOGS, *HIDDEN, "checkpoints", "tensorboard"} & set(path.parts):
            found[name] = path.read_bytes()
    numbers = json.loads((workdir / "summary.json").read_bytes())
    found |= {f"summary {key}": value for key, value in numbers.items() if not key.startswith(OF_THE_PROCESS)}
    return {name: hashlib.sha256(_as_bytes(value)).hexdigest() for name, value in found.items()}


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of what is not the same, or not there, in both."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def at_work(workdir: Path) -> str:
    """The entry that a killed run was in."""
    folders = [path for path in workdir.iterdir() if path.is_dir() and path.name not in HIDDEN]
    unfinished = [path.name for path in folders if not (path / "manifest.json").exists()]
    return ", ".join(unfinished) or "between two"


def _newest_state(folder):
    """All leaves of the newest checkpoint and the data's position: Orbax names files at random."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(folder.absolute(), item_names=("state", "data")) as manager:
        step = manager.latest_step()
        items = ocp.args.Composite(state=ocp.args.StandardRestore(), data=ocp.args.JsonRestore())
        restored = manager.restore(step, args=items)
    leaves = jax.tree_util.tree_leaves_with_path(restored["state"])
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf).tobytes().hex() for path, leaf in leaves}
    return {"step": step, "data": restored["data"], **arrays}


def _as_bytes(value):
    return value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()


def kill_test(config: str, kills: int, seed: int, entry: str, folder: Path) -> bool:
    """Print a row for each killed run; returns whether all ends were those of an undisturbed run.

    Runs are killed at any moment, or, where `entry` is not "", only while that one is at work. Raises InputError.
    """
    rng, launcher = np.random.default_rng(seed), Launcher(config, folder)
    write_weights(folder / "weights.safetensors", "tiny", seed)
    launcher.finish(folder / "undisturbed")  # fills the store of compiled programs
    if entry and not (folder / "undisturbed" / entry / "manifest.json").is_file():
        raise InputError(f"entry {entry!r}", "runs are killed in an entry of theirs", f"name one of {config}")
    seconds = launcher.finish(folder / "again")
    expected = contents(folder / "undisturbed")
    print(f"{len(expected)} things are compared; an undisturbed run takes {seconds:.1f} s\n")
    print(f"| kill | seconds into {entry or 'the run'} | at work | end |\n| --- | --- | --- | --- |")
    begun = entry or "config.json"
    if entry:
        seconds = json.loads((folder / "again" / entry / "manifest.json").read_bytes())["seconds"]
    rows = [("none", seconds, "", differences(expected, contents(folder / "again")))]
    _print_row(*rows[0])
    while len(rows) <= kills:
        workdir, moment = folder / f"killed-{len(rows)}", rng.uniform(0, seconds)
        if not launcher.kill(workdir, begun, moment):
            workdir.rename(folder / f"too-late-{time.time_ns()}")
            seconds = moment  # runs are shorter than that
            continue
        stage = at_work(workdir)
        if entry not in ("", stage):
            workdir.rename(folder / f"too-late-{time.time_ns()}")
            seconds = moment  # the entry is shorter than that
            continue
        launcher.finish(workdir)
        rows.append((len(rows), moment, stage, differences(expected, contents(workdir))))
        _print_row(*rows[-1])
    good = sum(not different for *_, different in rows[1:])
    print(f"\n{good} of {kills} killed runs ended bit for bit as the undisturbed one.", flush=True)
    return not any(different for *_, different in rows)


def _print_row(kill, seconds, stage, different):
    end = f"{len(different)} differ: {', '.join(different[:3])}" if different else "equal"
    print(f"| {kill} | {seconds:.1f} | {stage} | {end} |", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Kill and compare; returns the exit code, 1 where an end differs."""
    parser = Parser(description=__doc__)
    parser.add_argument("--config", default="adpo:tiny", help="with the preset tiny")
    parser.add_argument("--kills", type=int, default=30, help="killed runs (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--entry", default="", help="kill only while this one is at work (default any)")
    parser.add_argument("--keep", type=Path, help="leave the runs in this new folder")
    equal = []
    code = run(lambda options: equal.append(_in_folder(options)), parser, arguments)
    return code if code != DONE or all(equal) else DIFFERENT


def _in_folder(options):
    check_count("kills", options.kills, minimum=1)
    check_count("seed", options.seed)
    if options.keep is None:
        with tempfile.TemporaryDirectory() as folder:
            return kill_test(options.config, options.kills, options.seed, options.entry, Path(folder))
    if options.keep.exists():
        raise InputError(f"--keep {options.keep}", "the folder is new", "choose another, or remove it")
    options.keep.mkdir(parents=True)
    return kill_test(options.config, options.kills, options.seed, options.entry, options.keep.absolute())


if __name__ == "__main__":
    sys.exit(main())
