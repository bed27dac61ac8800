"""Runs the entries of a config in order, in a run directory; what is finished is not done again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from narrative_jax.core import processes
from narrative_jax.core.compiled import compiled_in
from narrative_jax.core.config import resolved
from narrative_jax.core.errors import InputError, Stopped, check_name
from narrative_jax.core.options import File
from narrative_jax.core.stop import StopFlag
from narrative_jax.runs.directory import COMPILED, Context, read_manifest
from narrative_jax.runs.entries import check_entry, inputs_of, is_entry, run_stage
from narrative_jax.runs.opening import opened
from narrative_jax.runs.summary import at_work
from narrative_jax.runs.tables import Tables

# What "" means, for Storybook's scenes and for one's own, which no rater can judge.
DEFAULTS = {"reward": ("raters", "picture_statistics"), "on_no_pairs": ("stop", "skip")}


def default_tables() -> Tables:
    """All that the package has; imported here, since most of it is slow to import."""
    from narrative_jax.annotators.catalogue import ANNOTATORS
    from narrative_jax.stages.catalogue import STAGES
    from narrative_jax.trainees.catalogue import TRAINEES

    return Tables(trainees=TRAINEES, annotators=ANNOTATORS, stages=STAGES)


def run(
    config: ConfigDict,
    workdir: str | Path,
    stage: str | None = None,
    stop: StopFlag | None = None,
    tables: Tables | None = None,
    redo: str | None = None,
) -> None:
    """Run the config's entries, or the one named `stage`, in `workdir`; those that are done are skipped.

    `redo` names an entry to do again, with all that is made from it, or several with commas between. Raises InputError
    before anything is written where the config is wrong, or what the directory holds was made from something else;
    Stopped where `stop` was requested and all is saved.
    """
    config, workdir, tables = FrozenConfigDict(completed(config)), Path(workdir), tables or default_tables()
    check(config, workdir, tables)
    redone = [] if redo is None else redo.split(",")
    for kind, names in {"stage": [] if stage is None else [stage], "entry to redo": redone}.items():
        for name in names:
            check_name(kind, name, config.stages)
    contexts = [Context(config, name, workdir, stop or StopFlag(), tables) for name in config.stages]
    with opened(contexts, stage, redone) as inputs, compiled_in(workdir / COMPILED, contexts[0].writes):
        for context in contexts:
            if stage in (None, context.name):
                _run_entry(context, inputs)
        finished = all(read_manifest(context.folder) for context in contexts)
        if finished and config.get("report", False) and contexts[0].writes:
            from narrative_jax import report

            report.write(workdir)


def completed(config: ConfigDict) -> ConfigDict:
    """The config with a name wherever it leaves the choice to its scenes ("", see DEFAULTS): config.json names it.

    The section of the reward that was not chosen so means nothing, and is left out.
    """
    config = ConfigDict(config.to_dict())
    own = bool(config.get("scenes", ""))
    judging = [value for value in config.values() if is_entry(value) and value.stage != "train"]  # "" is none there
    for section in (config, *judging):
        for key, choices in DEFAULTS.items():
            if section.get(key, None) == "":
                section[key] = choices[own]
                if choices[not own] in section:
                    del section[choices[not own]]
    if own:
        config.scenes = File(config.scenes)
        _calibrate_by_themselves(config)
    return config


def _calibrate_by_themselves(config):
    """People's own scenes have no second set to calibrate on: pictures of the scenes themselves serve."""
    for section in filter(is_entry, config.values()):
        if name := section.get("calibration", ""):
            section.calibration = ""
            config.stages = tuple(each for each in config.stages if each not in (name, config[name].source))


def check(config: ConfigDict, workdir: str | Path = "", tables: Tables | None = None) -> None:
    """Raise InputError unless every entry of the config names a known stage, has its inputs and passes its check."""
    tables = tables or default_tables()
    check_stages(config, tables)
    for name in config.stages:
        check_entry(Context(FrozenConfigDict(config), name, Path(workdir), tables=tables))


def check_stages(config: ConfigDict, tables: Tables) -> None:
    """Raise InputError unless entries of known stages are listed, each behind those that it needs."""
    resolved(config)
    names = config.get("stages", None)
    if not isinstance(names, tuple | list) or not names:
        raise InputError(f"stages {names!r}", "it is a tuple of entries", "list them, e.g. ('generate', 'score')")
    entries = [name for name, value in config.items() if is_entry(value)]
    for position, name in enumerate(names):
        check_name("entry in stages", name, entries)
        if name in names[:position]:
            raise InputError(f"stages {tuple(names)}", "an entry runs once", f"list {name!r} once")
        check_name(f"stage of {name}", config[name].stage, tables.stages)
        for source in inputs_of(config, name, tables):
            check_name(f"entry that {name} needs", source, entries)
            if source not in names[:position]:
                rule = f"{name} needs {source!r}, which does not come before it"
                raise InputError(f"stages {tuple(names)}", rule, f"list {source!r} before {name!r}")


def _run_entry(context: Context, inputs: Mapping[str, Any]) -> None:
    if processes.first_does(f"whether {context.name} is done", lambda: bool(read_manifest(context.folder))):
        print(
            f"{context.name}: done before (--redo={context.name} does it again, with all that is made from it)",
            flush=True,
        )
        return
    if source := processes.first_does(f"what {context.name} lacks", lambda: _missing_input(context)):
        rule = f"it needs {source!r}, which is not done in {context.workdir}"
        raise InputError(f"stage {context.name}", rule, f"run --stage={source} first")
    if context.stop.requested:
        raise Stopped
    with at_work(context, inputs.get(context.name)) as finish:
        seconds = finish(run_stage(context))
    processes.wait_for_all(context.name)
    print(f"{context.name}: done in {seconds:.1f} s", flush=True)


def _missing_input(context):
    sources = inputs_of(context.config, context.name, context.tables)
    return next((source for source in sources if not read_manifest(context.path(source))), None)
