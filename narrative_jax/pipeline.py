"""Runs the entries of a config in order, in a run directory; what is finished is not done again."""

import fcntl
import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict, FrozenConfigDict

from narrative_jax.core.config import differences, resolved
from narrative_jax.core.errors import InputError, Stopped, check_name
from narrative_jax.core.files import check_writable, read_json, write_json
from narrative_jax.core.stop import StopFlag
from narrative_jax.stages.base import Context, Stage

# Numbers of one meaning wherever they come from; all others stand in the summary under their entry's name.
SHARED_KEYS = ("gold/", "nibench/", "screen/", "compile/", "memory/", "time/")

# What "" means, for Storybook's scenes and for one's own, which no rater can judge.
DEFAULTS = {"reward": ("raters", "picture_statistics"), "on_no_pairs": ("stop", "skip")}

CONFIG = "config.json"
MANIFEST = "manifest.json"  # of an entry, written last: the entry is finished
ELAPSED = "elapsed.json"  # of an entry: seconds of the runs that did not finish


def known_stages() -> dict[str, Stage]:
    """The stages by the names that entries give them; imported here, since most of them are slow to import."""
    from narrative_jax.stages import accuracy, collect, evaluate, generate, retrieve, score, screen, tabulate, train

    return {
        "accuracy": accuracy,
        "collect": collect,
        "generate": generate,
        "score": score,
        "retrieve": retrieve,
        "screen": screen,
        "train": train,
        "evaluate": evaluate,
        "tabulate": tabulate,
    }


def run(
    config: ConfigDict,
    workdir: str | Path,
    stage: str | None = None,
    stop: StopFlag | None = None,
    stages: Mapping[str, Stage] | None = None,
) -> None:
    """Run the config's entries, or the one named `stage`, in `workdir`; those with a manifest are skipped.

    Raises InputError before anything is written where the config is wrong or the directory belongs to another config,
    Stopped where `stop` was requested and all is saved.
    """
    config, workdir, stop = FrozenConfigDict(completed(config)), Path(workdir), stop or StopFlag()
    stages = known_stages() if stages is None else stages
    check(config, stages)
    if stage is not None:
        check_name("stage", stage, config.stages)
    _check_same(config, workdir)
    with _claimed(workdir, config):
        _wait_for_all("workdir")
        for name in config.stages if stage is None else (stage,):
            _run_entry(Context(config, name, workdir, stop), stages[config[name].stage])
            _wait_for_all(name)
        if _first_process() and config.get("report", False) and all(_manifests(config, workdir)):
            from narrative_jax import report

            report.write(workdir)


def completed(config: ConfigDict) -> ConfigDict:
    """The config with a name wherever it leaves the choice to its scenes ("", see DEFAULTS): config.json names it."""
    config = ConfigDict(config.to_dict())
    own = bool(config.get("scenes", ""))
    for section in (config, *(value for value in config.values() if isinstance(value, ConfigDict))):
        section.update({key: choices[own] for key, choices in DEFAULTS.items() if section.get(key, None) == ""})
    return config


def check(config: ConfigDict, stages: Mapping[str, Stage] | None = None) -> None:
    """Raise InputError unless every entry of the config names a known stage, has its inputs and passes its check."""
    stages = known_stages() if stages is None else stages
    resolved(config)
    names = config.get("stages", None)
    if not isinstance(names, tuple | list) or not names:
        raise InputError(f"stages {names!r}", "it is a tuple of entries", "list them, e.g. ('generate', 'score')")
    entries = [name for name, value in config.items() if isinstance(value, ConfigDict) and "stage" in value]
    for position, name in enumerate(names):
        check_name("entry in stages", name, entries)
        if name in names[:position]:
            raise InputError(f"stages {tuple(names)}", "an entry runs once", f"list {name!r} once")
        entry = config[name]
        check_name(f"stage of {name}", entry.stage, stages)
        for source in _inputs(entry, stages[entry.stage]):
            check_name(f"entry that {name} needs", source, entries)
            if source not in names[:position]:
                rule = f"{name} needs {source!r}, which does not come before it"
                raise InputError(f"stages {tuple(names)}", rule, f"list {source!r} before {name!r}")
    for name in names:
        if hasattr(stages[config[name].stage], "check"):
            stages[config[name].stage].check(config, config[name])


def summary(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """The numbers of all finished entries: a shared key as it is while no earlier entry has it, else <entry>/<key>."""
    numbers: dict[str, float] = {}
    finished = {n: m for n, m in zip(config.stages, _manifests(config, Path(workdir)), strict=True) if m}
    for name, manifest in finished.items():
        for key, value in manifest["summary"].items():
            shared = key.startswith(SHARED_KEYS) and key not in numbers
            numbers[key if shared else f"{name}/{key}"] = value
        numbers[f"time/{name}_seconds"] = manifest["seconds"]
    numbers["time/total_seconds"] = sum(manifest["seconds"] for manifest in finished.values())
    numbers["memory/peak_bytes"] = max((manifest["peak_bytes"] for manifest in finished.values()), default=0)
    return numbers


def read_config(workdir: str | Path) -> FrozenConfigDict:
    """The config of a run directory. Raises InputError where it is none."""
    path = Path(workdir) / CONFIG
    if not path.is_file():
        raise InputError(f"run {workdir}", f"it is no run directory (no {CONFIG})", "name one, e.g. runs/adpo")
    return FrozenConfigDict(ConfigDict(read_json(path)))


def train_entries(config: ConfigDict) -> list[str]:
    """The entries that train the generator, in order."""
    from narrative_jax.stages.train import ALGORITHMS, OTHERS

    entries = [name for name in config.stages if config[name].stage == "train"]
    return [name for name in entries if ALGORITHMS[config[name].algorithm].trains_on not in OTHERS]


def check_trained(context: Context, otherwise: str) -> None:
    """Raise InputError unless a train entry left weights; `otherwise` says what else the user can do."""
    from narrative_jax.stages.common import was_trained

    if was_trained(context, context.name):
        return
    skipped = (context.folder / MANIFEST).exists()
    rule = "it had no pair to train on" if skipped else "it has not finished"
    remedy = otherwise + ("" if skipped else ", or run the rest of it first")
    raise InputError(f"entry {context.name!r} of {context.workdir}", rule, remedy)


def _run_entry(context: Context, stage: Stage) -> None:
    if _manifest(context.folder):
        _say(f"{context.name}: done before (to do it again, remove {context.folder})")
        return
    for source in _inputs(context.entry, stage):
        if not _manifest(context.path(source)):
            rule = f"it needs {source!r}, which is not done in {context.workdir}"
            raise InputError(f"stage {context.name}", rule, f"run --stage={source} first")
    if context.stop.requested:
        raise Stopped
    context.folder.mkdir(exist_ok=True)
    elapsed = context.folder / ELAPSED
    before, start = _read(elapsed) or 0.0, time.monotonic()
    try:
        numbers = _numbers(context.name, stage.run(context) or {})
    except Exception:
        if _first_process():
            with suppress(InputError):
                write_json(elapsed, before + time.monotonic() - start)
        raise
    seconds = before + time.monotonic() - start
    if _first_process():
        manifest = {"stage": context.entry.stage, "seconds": seconds, "peak_bytes": _peak_bytes(), "summary": numbers}
        write_json(context.folder / MANIFEST, manifest)
        write_json(context.workdir / "summary.json", summary(context.config, context.workdir))
    _say(f"{context.name}: done in {seconds:.1f} s")


@contextmanager
def _claimed(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """The run directory with its config, held against a second run until the process ends."""
    if not _first_process():
        yield
        return
    check_writable(workdir)
    # A lock of lockf, unlike one of flock, does not outlive a killed run in its forked workers.
    with open(workdir / ".lock", "w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            rule = "another run is at work there"
            raise InputError(f"workdir {workdir}", rule, "wait for it, or choose another --workdir") from error
        except OSError:
            pass  # a file system without locks
        _check_same(config, workdir)
        if _read(workdir / CONFIG) != resolved(config):
            write_json(workdir / CONFIG, resolved(config))
        yield


def _check_same(config: ConfigDict, workdir: Path) -> None:
    """Raise InputError where what the directory holds was made with other values; an entry with nothing may change."""
    there, here = _read(workdir / CONFIG) or {}, resolved(config)
    entries = {*there.get("stages", ()), *here["stages"]}
    begun = {name for name in entries if any(path.name != ELAPSED for path in (workdir / name).glob("*"))}
    if not there or not begun:
        return
    fixed = ({key: value for key, value in values.items() if key not in entries - begun} for values in (there, here))
    changes = differences(*fixed)
    if changes:
        shown = ", ".join(changes[:8]) + (f" and {len(changes) - 8} more" if len(changes) > 8 else "")
        rule = f"it was written by a config that differs in {shown}"
        raise InputError(f"workdir {workdir}", rule, "choose another --workdir, or the config of that run")


def _inputs(entry: ConfigDict, stage: Stage) -> list[str]:
    """The names of the entries that this one reads."""
    values = [entry.get(key, "") for key in getattr(stage, "INPUTS", ())]
    return [name for value in values for name in ((value,) if isinstance(value, str) else value) if name]


def _manifests(config: ConfigDict, workdir: Path) -> list[dict[str, Any] | None]:
    return [_manifest(workdir / name) for name in config.stages]


def _manifest(folder: Path) -> dict[str, Any] | None:
    return _read(folder / MANIFEST)


def _read(path: Path) -> Any:
    """What a JSON file of the run directory holds, None without one. Raises InputError."""
    return read_json(path) if path.exists() else None


def _numbers(name: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Numbers for the summary; TypeError or ValueError where a stage returned anything else."""
    for key, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"stage {name} returned {key} = {value}: a summary holds finite numbers")
    return {key: int(value) if isinstance(value, Integral) else float(value) for key, value in values.items()}


def _peak_bytes() -> int:
    """The largest resident set so far of this process, or of one that it started and waited for."""
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(peaks) * (1 if sys.platform == "darwin" else 1024)


def _first_process() -> bool:
    # Asks for the number only where there are several, since asking takes hold of the accelerators.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def _wait_for_all(step: str) -> None:
    """What the first process wrote, the others may read from here on."""
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices(step)


def _say(line: str) -> None:
    if _first_process():
        print(line, flush=True)
