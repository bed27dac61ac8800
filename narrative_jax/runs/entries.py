"""What an entry of a config has: its stage, its options, the entries and the files that it reads."""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from narrative_jax.core import processes
from narrative_jax.core.options import File, files_in, parse, whole_keys
from narrative_jax.runs.directory import Context
from narrative_jax.runs.generator import generator_options
from narrative_jax.runs.tables import Tables


def is_entry(value: Any) -> bool:
    """Whether a part of a config is an entry, not a section that entries share."""
    return isinstance(value, ConfigDict | FrozenConfigDict | dict) and "stage" in value


def stage_of(context: Context) -> Any:
    """The module that the context's entry runs; see `stages.base`."""
    return context.tables.stages[context.entry.stage]


def options_of(context: Context) -> Any:
    """The options of the context's entry, as its stage has them. Raises InputError."""
    stage = stage_of(context)
    others = stage.sections(context) if hasattr(stage, "sections") else ()
    return parse(stage.Options, context.entry, context.name, ["stage", *others])


def check_entry(context: Context) -> None:
    """Raise InputError, by the whole key, for options of the context's entry that its stage refuses."""
    options, stage = options_of(context), stage_of(context)
    if hasattr(stage, "check"):
        with whole_keys(type(options), context.name):
            stage.check(context, options)


def run_stage(context: Context) -> Mapping[str, float]:
    """What the stage of the context's entry makes, and the numbers that it returns. Raises InputError, Stopped."""
    stage, options = stage_of(context), options_of(context)
    if getattr(stage, "ALONE", False) and not processes.is_first():
        return {}
    return stage.run(context, options) or {}


def inputs_of(config: Mapping[str, Any], name: str, tables: Tables) -> list[str]:
    """The names of the entries that this one reads."""
    entry, stage = config[name], tables.stages[config[name].stage]
    values = [entry.get(key, "") for key in getattr(stage, "INPUTS", ())]
    named = [each for value in values for each in ((value,) if isinstance(value, str) else value) if each]
    # What entries make of the generator's parts, all later ones are made from.
    parts, names = config.get("generator", {}).values(), list(config.stages)
    before = names[: names.index(name)] if name in names else []
    return list(dict.fromkeys([*named, *(part for part in parts if isinstance(part, str) and part in before)]))


def files_of(context: Context) -> list[File]:
    """The files that an entry reads: the scenes, the generator's, and those of its own options."""
    return sorted(set(_files(context)))


def ended_by(context: Context) -> str:
    """Why more steps of the context's entry cannot go on where fewer ended, "" where they can."""
    stage = stage_of(context)
    return stage.ended_by(options_of(context)) if hasattr(stage, "ended_by") else "its stage does not go on"


def _files(context) -> Iterator[File]:
    stage = stage_of(context)
    yield from [context.config.scenes] if context.config.get("scenes", "") else []
    if "generator" in context.config:
        entries = {str(context.path(name)) for name in context.config.stages}  # told by their own inputs
        yield from (file for file in files_in(generator_options(context)) if file not in entries)
    yield from files_in(options_of(context))
    yield from stage.files(context) if hasattr(stage, "files") else ()
