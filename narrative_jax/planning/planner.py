"""A config's plan: its programs compiled for a topology, one after the other, or ways to train compared."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ml_collections import FrozenConfigDict

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.mesh import check_divided, devices_of_batch, make_mesh
from narrative_jax.planning import words
from narrative_jax.planning.programs import sampler_program, scoring_program, train_program
from narrative_jax.planning.report import compiled, remedies
from narrative_jax.planning.rewards import reward_entries
from narrative_jax.planning.search import search
from narrative_jax.planning.topologies import chip_of, devices_of
from narrative_jax.runs.directory import Context
from narrative_jax.runs.generator import preset_of
from narrative_jax.runs.tables import Tables
from narrative_jax.runs.trained import train_entries

SAMPLING, SCORING = "sampling", "scoring"  # what draws and what criticises, beside the programs of train entries


@dataclass(frozen=True)
class Asked:
    """What a plan is asked for, as the command's flags have it; None is what is usual."""

    topology: str
    slices: int = 1
    only: str = ""
    pairs: int | None = None
    tflops: float | None = None
    memory_gbs: float | None = None
    link_gbs: float | None = None
    network_gbs: float | None = None
    hbm_gib: float | None = None
    search: bool = False


def plan(config: FrozenConfigDict, asked: Asked, tables: Tables) -> dict[str, Any]:
    """Print the plan of a completed config; returns its numbers. Raises InputError."""
    given = (asked.tflops, asked.memory_gbs, asked.link_gbs, asked.network_gbs, asked.hbm_gib)
    chip = chip_of(asked.topology, *given)
    contexts = _contexts(config, tables)
    trained = train_entries(config)
    known = [*contexts, *[SAMPLING] * bool(trained), *[SCORING] * (len(contexts) > len(trained))]
    names = asked.only.split(",") if asked.only else known
    for name in names:
        check_name("program to plan", name, known)
    if asked.search:
        _check_search(asked, trained)
    devices = devices_of(asked.topology, asked.slices)
    if asked.search:
        entry = asked.only or trained[0]
        print(words.assumptions(asked.topology, chip), flush=True)
        found = {"search": search(contexts[entry], devices, chip, print)}
        return _head(asked, devices, chip) | found
    mesh = make_mesh(config.mesh, devices)
    if trained:
        check_divided(preset_of(contexts[trained[0]]).divided, mesh.shape)
    sizes = " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    print(f"{asked.slices} × {asked.topology}, mesh {sizes}")
    print(words.assumptions(asked.topology, chip), flush=True)
    # All of them before the first is compiled, which takes minutes: bad input of the last is told at once.
    programs = {name: _program(name, contexts, mesh) for name in names}
    reports, told = [], {}
    for name, (context, program) in programs.items():
        numbers, told[name] = _figures(context, program, mesh, chip, asked.pairs, name in contexts)
        reports.append(numbers)
    print(words.columns(told))
    return _head(asked, devices, chip) | {"mesh": dict(mesh.shape), "programs": reports}


def _check_search(asked, trained):
    """Raise InputError unless one entry that trains the generator is meant, and nothing else asked."""
    if not trained:
        rule = "it ranks ways to train a generator, and this config trains none"
        raise InputError("--search", rule, "leave it out")
    if asked.only not in trained and (asked.only or len(trained) > 1):
        rule = "--search ranks ways to train one entry of the generator"
        raise InputError(f"--only {asked.only!r}", rule, f"name one of {', '.join(trained)}")
    if asked.pairs:
        rule = "--search ranks ways to train, and says of none how long so many take"
        raise InputError(f"--pairs {asked.pairs}", rule, "leave it out, and plan the mesh that it found")


def _contexts(config, tables) -> Mapping[str, Context]:
    """Of the entries that train the generator, and then of those that train a reward on critiques.

    Raises InputError where there is none.
    """
    names = (*train_entries(config), *reward_entries(config))
    contexts = {name: Context(config, name, Path(), tables=tables) for name in names}
    if not contexts:
        given, rule = f"stages {', '.join(config.stages)}", "none of them trains the generator, or NIReward"
        raise InputError(given, rule, "plan a config with such a train entry")
    return contexts


def _program(name, contexts, mesh):
    """A program, and the context that it is of. Raises InputError."""
    programs = {SAMPLING: sampler_program, SCORING: scoring_program}
    context = contexts[name] if name in contexts else list(contexts.values())[-1 if name == SCORING else 0]
    return context, programs.get(name, train_program)(context, mesh)


def _figures(context, program, mesh, chip, pairs, trains):
    """The numbers of one program, and what the table says of them."""
    report = compiled(program, mesh.size, chip)
    if not report.fits:
        generates = program.name in train_entries(context.config)
        what = remedies(report, devices_of_batch(mesh), preset_of(context).kept if generates else "")
        print(words.misfit(report, what), flush=True)
    records = (pairs or program.rows * program.runs) if trains else None
    numbers = asdict(report) | {"per_second": report.per_second}
    if records:
        numbers |= {"records": records, "days": report.days(records)}
    return numbers, words.figures(report, records)


def _head(asked, devices, chip):
    # Memory and collectives are decisions of the compiler, of this version.
    versions = {package: version(package) for package in ("jax", "flax", "libtpu")}
    where = {"topology": asked.topology, "slices": asked.slices, "chips": len(devices)}
    return where | {"assumed": asdict(chip), "versions": versions}
