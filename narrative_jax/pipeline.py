"""Runs the entries of a config in order, in a run directory; what is finished is not done again."""

import math
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from narrative_jax.core.config import resolved
from narrative_jax.core.errors import InputError, Stopped, check_name
from narrative_jax.core.files import write_json
from narrative_jax.core.options import files_in, parse
from narrative_jax.core.stop import StopFlag
from narrative_jax.runs import directory, provenance
from narrative_jax.runs.directory import Context, read_manifest
from narrative_jax.runs.generator import generator_options
from narrative_jax.runs.tables import Tables

# Numbers of one meaning wherever they come from; all others stand in the summary under their entry's name.
SHARED_KEYS = ("gold/", "nibench/", "screen/", "compile/", "memory/", "time/")

# What "" means, for Storybook's scenes and for one's own, which no rater can judge.
DEFAULTS = {"reward": ("raters", "picture_statistics"), "on_no_pairs": ("stop", "skip")}


def default_tables() -> Tables:
    """All that the package has; imported here, since most of it is slow to import."""
    from narrative_jax.stages import accuracy, collect, evaluate, generate, retrieve, score, screen, tabulate, train
    from narrative_jax.trainees.catalogue import TRAINEES

    stages = {
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
    return Tables(trainees=TRAINEES, stages=stages)


def run(
    config: ConfigDict,
    workdir: str | Path,
    stage: str | None = None,
    stop: StopFlag | None = None,
    tables: Tables | None = None,
    redo: str | None = None,
) -> None:
    """Run the config's entries, or the one named `stage`, in `workdir`; those that are done are skipped.

    `redo` names an entry to do again, with all that is made from it. Raises InputError before anything is written where
    the config is wrong, or what the directory holds was made from something else; Stopped where `stop` was requested
    and all is saved.
    """
    config, workdir, tables = FrozenConfigDict(completed(config)), Path(workdir), tables or default_tables()
    check(config, workdir, tables)
    for kind, name in {"stage": stage, "redo": redo}.items():
        if name is not None:
            check_name(kind, name, config.stages)
    again = [] if redo is None else provenance.dependents(redo, _sources(config, tables))
    if (workdir / directory.CONFIG).exists():  # before anything is touched
        _check_fresh(config, workdir, tables, _traced(config, workdir, tables), again)
    with directory.claimed(workdir):
        found = _traced(config, workdir, tables)
        _check_fresh(config, workdir, tables, found, again)
        if directory.first_process():
            found.hashes.save()
            for name in again:
                shutil.rmtree(workdir / name, ignore_errors=True)
            for name in found.longer:
                (workdir / name / directory.MANIFEST).unlink(missing_ok=True)
            write_json(workdir / directory.CONFIG, resolved(config))
        directory.wait_for_all("workdir")
        for name in config.stages if stage is None else (stage,):
            context = Context(config, name, workdir, stop or StopFlag(), tables)
            _run_entry(context, found.inputs[name])
            directory.wait_for_all(name)
        if directory.first_process() and config.get("report", False) and all(_manifests(config, workdir).values()):
            from narrative_jax import report

            report.write(workdir)


def completed(config: ConfigDict) -> ConfigDict:
    """The config with a name wherever it leaves the choice to its scenes ("", see DEFAULTS): config.json names it.

    The section of the reward that was not chosen so means nothing, and is left out.
    """
    config = ConfigDict(config.to_dict())
    own = bool(config.get("scenes", ""))
    for section in (config, *(value for value in config.values() if isinstance(value, ConfigDict))):
        for key, choices in DEFAULTS.items():
            if section.get(key, None) == "":
                section[key] = choices[own]
                if choices[not own] in section:
                    del section[choices[not own]]
    return config


def check(config: ConfigDict, workdir: str | Path = "", tables: Tables | None = None) -> None:
    """Raise InputError unless every entry of the config names a known stage, has its inputs and passes its check."""
    tables = tables or default_tables()
    resolved(config)
    names = config.get("stages", None)
    if not isinstance(names, tuple | list) or not names:
        raise InputError(f"stages {names!r}", "it is a tuple of entries", "list them, e.g. ('generate', 'score')")
    entries = [name for name, value in config.items() if _is_entry(value)]
    for position, name in enumerate(names):
        check_name("entry in stages", name, entries)
        if name in names[:position]:
            raise InputError(f"stages {tuple(names)}", "an entry runs once", f"list {name!r} once")
        check_name(f"stage of {name}", config[name].stage, tables.stages)
        for source in _inputs(config, name, tables):
            check_name(f"entry that {name} needs", source, entries)
            if source not in names[:position]:
                rule = f"{name} needs {source!r}, which does not come before it"
                raise InputError(f"stages {tuple(names)}", rule, f"list {source!r} before {name!r}")
    for name in names:
        context = Context(FrozenConfigDict(config), name, Path(workdir), tables=tables)
        options = options_of(context)
        if hasattr(_stage(context), "check"):
            _stage(context).check(context, options)


def options_of(context: Context) -> Any:
    """The options of the context's entry, as its stage has them. Raises InputError."""
    stage = _stage(context)
    others = stage.sections(context) if hasattr(stage, "sections") else ()
    return parse(stage.Options, context.entry, context.name, ["stage", *others])


def summary(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """The numbers of all finished entries: a shared key as it is while no earlier entry has it, else <entry>/<key>."""
    numbers: dict[str, float] = {}
    finished = {name: manifest for name, manifest in _manifests(config, Path(workdir)).items() if manifest}
    for name, manifest in finished.items():
        for key, value in manifest["summary"].items():
            shared = key.startswith(SHARED_KEYS) and key not in numbers
            numbers[key if shared else f"{name}/{key}"] = value
        numbers[f"time/{name}_seconds"] = manifest["seconds"]
    numbers["time/total_seconds"] = sum(manifest["seconds"] for manifest in finished.values())
    numbers["memory/peak_bytes"] = max((manifest["peak_bytes"] for manifest in finished.values()), default=0)
    return numbers


def _run_entry(context: Context, inputs: Mapping[str, Any]) -> None:
    stage, folder = _stage(context), context.folder
    if read_manifest(folder):
        _say(f"{context.name}: done before (--redo={context.name} does it again, with all that is made from it)")
        return
    for source in _inputs(context.config, context.name, context.tables):
        if not read_manifest(context.path(source)):
            rule = f"it needs {source!r}, which is not done in {context.workdir}"
            raise InputError(f"stage {context.name}", rule, f"run --stage={source} first")
    if context.stop.requested:
        raise Stopped
    folder.mkdir(exist_ok=True)
    elapsed, first = folder / directory.ELAPSED, directory.first_process()
    if first:
        write_json(folder / provenance.INPUTS, inputs)
    before, start = directory.read_if_there(elapsed) or 0.0, time.monotonic()
    try:
        numbers = _numbers(context.name, stage.run(context, options_of(context)) or {})
    except Exception:
        if first:
            with suppress(InputError):
                write_json(elapsed, before + time.monotonic() - start)
        raise
    seconds = before + time.monotonic() - start
    if first:
        manifest = {"stage": context.entry.stage, "seconds": seconds, "peak_bytes": _peak_bytes(), "summary": numbers}
        write_json(folder / directory.MANIFEST, manifest)
        write_json(context.workdir / "summary.json", summary(context.config, context.workdir))
    _say(f"{context.name}: done in {seconds:.1f} s")


def _traced(config, workdir, tables) -> provenance.Provenance:
    """What each entry would be made from, beside what those on the disk were."""
    contexts = {name: Context(config, name, workdir, tables=tables) for name in config.stages}
    files = {name: sorted(set(_files(context))) for name, context in contexts.items()}

    def may_grow(name):
        stage = _stage(contexts[name])
        return hasattr(stage, "may_grow") and stage.may_grow(options_of(contexts[name]))

    return provenance.trace(resolved(config), workdir, config.stages, _sources(config, tables), files, may_grow)


def _files(context):
    """What an entry reads: the scenes, the generator's files, and those of its own options."""
    stage = _stage(context)
    yield from [context.config.scenes] if context.config.get("scenes", "") else []
    if "generator" in context.config:
        entries = {str(context.path(name)) for name in context.config.stages}  # told by their own inputs
        yield from (file for file in files_in(generator_options(context)) if file not in entries)
    yield from files_in(options_of(context))
    yield from stage.files(context) if hasattr(stage, "files") else ()


def _check_fresh(config, workdir, tables, found, again) -> None:
    """Raise InputError where something on the disk was made from something else and is not done again."""
    stale = {name: changes for name, changes in found.changed.items() if name not in again}
    for name, changes in stale.items():
        affected = [each for each in provenance.dependents(name, _sources(config, tables)) if each in found.changed]
        shown = ", ".join(changes[:8]) + (f" and {len(changes) - 8} more" if len(changes) > 8 else "")
        rule = f"it was made from something else: {shown}"
        remedy = f"--redo={name} does {', '.join(affected)} again; or choose another --workdir"
        raise InputError(f"entry {name!r} of {workdir}", rule, remedy)


def _sources(config, tables):
    return {name: _inputs(config, name, tables) for name in config.stages}


def _inputs(config, name, tables) -> list[str]:
    """The names of the entries that this one reads."""
    entry, stage = config[name], tables.stages[config[name].stage]
    values = [entry.get(key, "") for key in getattr(stage, "INPUTS", ())]
    named = [each for value in values for each in ((value,) if isinstance(value, str) else value) if each]
    # What entries make of the generator's parts, all later ones are made from.
    parts = [value for value in config.get("generator", {}).values() if isinstance(value, str)]
    before = list(config.stages)[: list(config.stages).index(name)] if name in config.stages else []
    return list(dict.fromkeys([*named, *(part for part in parts if part in before)]))


def _is_entry(value):
    return isinstance(value, ConfigDict | FrozenConfigDict) and "stage" in value


def _stage(context):
    return context.tables.stages[context.entry.stage]


def _manifests(config, workdir) -> dict[str, dict[str, Any] | None]:
    return {name: read_manifest(workdir / name) for name in config.stages}


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


def _say(line: str) -> None:
    if directory.first_process():
        print(line, flush=True)
