"""What an entry was made from, so that nothing stale is taken for done: its options, sources and files, by content."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from narrative_jax.core.config import differences
from narrative_jax.core.hashing import Hashes, digest
from narrative_jax.models.shipped import EMBEDDED
from narrative_jax.rewards.oracle import WORLD_VERSION
from narrative_jax.runs.directory import ELAPSED, read_if_there

INPUTS = "inputs.json"  # of an entry: what it is made from, written when it begins
NEUTRAL = ("mesh", "report", "stages", "save_every", "sample_every")  # no result depends on them


@dataclass(frozen=True)
class Provenance:
    """Of each entry what it would be made from now (`inputs`), and what on the disk was made from something else.

    `changed` maps entries that have begun to what differs; `longer` are those that are the same but for more steps of
    training, which go on from where they ended.
    """

    inputs: dict[str, dict[str, Any]]
    changed: dict[str, list[str]]
    longer: list[str]
    hashes: Hashes  # to be saved once something may be written


def trace(
    config: Mapping[str, Any],
    workdir: Path,
    entries: Iterable[str],
    sources: Mapping[str, Iterable[str]],
    files: Mapping[str, Iterable[str]],
    may_grow: Callable[[str], bool],
) -> Provenance:
    """Look at all `entries`, in order, of a resolved config; `sources` and `files` are what each reads.

    `may_grow` says of an entry whether more steps go on where fewer ended. Raises InputError for damaged records.
    """
    names, hashes = list(entries), Hashes(workdir / ".hashes.json")
    shared = {key: value for key, value in config.items() if not (isinstance(value, Mapping) and "stage" in value)}
    always = {"embedded weights": hashes.of(EMBEDDED), "version of the world and its judge": WORLD_VERSION}
    inputs, changed, longer = {}, {}, []
    for name in names:
        made_from = {
            "options": _telling({**shared, name: config[name]}),
            "files": {str(file): hashes.of(file) for file in files[name]},
            "sources": {source: digest(inputs[source]) for source in sources[name]},
            "package": always,
        }
        inputs[name] = made_from
        if not any(path.name not in (INPUTS, ELAPSED) for path in (workdir / name).glob("*")):
            continue  # what has left nothing may change
        before = read_if_there(workdir / name / INPUTS)
        if before is not None and _only_longer(before, made_from, name) and may_grow(name):
            longer.append(name)
        elif before != made_from:
            changed[name] = _changes(before, made_from)
    return Provenance(inputs, changed, longer, hashes)


def dependents(name: str, sources: Mapping[str, Iterable[str]]) -> list[str]:
    """The entry and all that are made from it, directly or not, in order."""
    found = [name]
    for entry, read in sources.items():
        if entry not in found and any(source in found for source in read):
            found.append(entry)
    return found


def _telling(options):
    """Without what cannot change a result."""
    return {
        key: _telling(value) if isinstance(value, Mapping | ConfigDict) else value
        for key, value in options.items()
        if key not in NEUTRAL
    }


def _only_longer(before, now, name):
    """Whether nothing differs but a number of training steps that has grown."""
    steps = [made_from["options"].get(name, {}).get("total_steps", 0) for made_from in (before, now)]
    same = {**now, "options": {**now["options"], name: {**now["options"][name], "total_steps": steps[0]}}}
    return steps[0] < steps[1] and before == same


def _changes(before, now) -> list[str]:
    """In words."""
    if before is None:
        return ["nothing says what it was made from"]
    options = differences(before["options"], now["options"])
    parts = {"content of": "files", "what was made of": "sources", "this package's": "package"}
    keys = {kind: before[kind].keys() | now[kind].keys() for kind in parts.values()}
    contents = [
        f"{words} {key}"
        for words, kind in parts.items()
        for key in sorted(keys[kind])
        if before[kind].get(key) != now[kind].get(key)
    ]
    return options + contents
