"""One entry of a config by itself, as the pipeline checks and runs it."""

from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

from narrative_jax import pipeline
from narrative_jax.core.stop import StopFlag
from narrative_jax.runs.directory import Context
from narrative_jax.runs.entries import options_of, stage_of


def entry(config, name, workdir="", stop=None):
    """The context of an entry; its folder is there where a run directory is named."""
    config = FrozenConfigDict(config if isinstance(config, ConfigDict) else ConfigDict(config))
    context = Context(config, name, Path(workdir), stop or StopFlag(), pipeline.default_tables())
    if workdir:
        context.folder.mkdir(exist_ok=True)
    return context


def check(config, name):
    """Raise InputError as before a run."""
    context = entry(config, name)
    stage_of(context).check(context, options_of(context))


def run(config, name, workdir, stop=None):
    """Check and run an entry; returns its numbers."""
    check(config, name)
    context = entry(config, name, workdir, stop)
    return stage_of(context).run(context, options_of(context))
