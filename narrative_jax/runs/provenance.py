"""What an entry was made from, so that nothing stale is taken for done: its options, sources and files, by content."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from narrative_jax.core.config import differences, resolved
from narrative_jax.core.errors import InputError
from narrative_jax.core.hashing import Hashes, digest
from narrative_jax.models.shipped import EMBEDDED
from narrative_jax.rewards.oracle import WORLD_VERSION
from narrative_jax.runs.directory import ELAPSED, INPUTS, Context, read_if_there
from narrative_jax.runs.entries import ended_by, files_of, inputs_of, is_entry

# No result depends on them; on how often samples are drawn it does where an adapter is kept with each.
NEUTRAL = ("mesh", "report", "stages", "save_every", "sample_every")
NEUTRAL += ("budget", "key_variable", "timeout_s", "tries", "at_once")  # how a server is asked, not what


@dataclass(frozen=True)
class Provenance:
    """Of each entry what it would be made from now (`inputs`), and what on the disk was made from something else.

    `changed` maps entries that have begun to what differs; `longer` are those that are the same but for more steps of
    training, which go on from where they ended.
    """

    inputs: dict[str, dict[str, Any]]
    changed: dict[str, list[str]]
    longer: list[str]


def trace(contexts: Sequence[Context], hashes: Hashes) -> Provenance:
    """Look at all entries of a config, in order. Raises InputError for damaged records."""
    config = resolved(contexts[0].config)
    shared = {key: value for key, value in config.items() if not is_entry(value)}
    content = cache(hashes.of)  # several entries read the same files
    always = {"embedded weights": content(EMBEDDED), "version of the world and its judge": WORLD_VERSION}
    inputs, changed, longer = {}, {}, []
    for context in contexts:
        name = context.name
        inputs[name] = {
            "options": _telling({**shared, name: config[name]}),
            "files": {str(file): content(file) for file in files_of(context)},
            "sources": {source: digest(inputs[source]) for source in _sources(context)},
            "package": always,
        }
        if not any(path.name not in (INPUTS, ELAPSED) for path in context.folder.glob("*")):
            continue  # what has left nothing may change
        before = read_if_there(context.folder / INPUTS)
        grown = before is not None and _only_longer(before, inputs[name], name)
        ended = ended_by(context) if grown else ""
        if grown and not ended:
            longer.append(name)
        elif before != inputs[name]:
            changed[name] = [*_changes(before, inputs[name]), *filter(None, [ended])]
    return Provenance(inputs, changed, longer)


def check_fresh(contexts: Sequence[Context], found: Provenance, redo: Sequence[str]) -> list[str]:
    """The entries that are done again: those of `redo`, and all that are made from them or from what goes on.

    Raises InputError, saying what changed and what would be done again, where something on the disk was made from
    something else and is not among these.
    """
    sources = {context.name: _sources(context) for context in contexts}
    outgrown = [name for name, read in sources.items() if set(read).intersection(found.longer)]
    again = _with_dependents([*redo, *outgrown], sources)
    stale = [name for name in found.changed if name not in again]
    if not stale:
        return again
    needed = []  # those that all others that have changed are made from
    for name in found.changed:
        if name not in _with_dependents(needed, sources):
            needed.append(name)
    affected = [name for name in _with_dependents(needed, sources) if name in found.changed]
    changes = found.changed[stale[0]]
    shown = ", ".join(changes[:8]) + (f" and {len(changes) - 8} more" if len(changes) > 8 else "")
    remedy = f"--redo={','.join(needed)} does {', '.join(affected)} again; or choose another --workdir"
    given = f"entry {stale[0]!r} of {contexts[0].workdir}"
    raise InputError(given, f"it was made from something else: {shown}", remedy)


def _sources(context):
    return inputs_of(context.config, context.name, context.tables)


def _with_dependents(names, sources):
    """The entries and all that are made from them, in order."""
    found = set(names)
    for entry, read in sources.items():
        if found.intersection(read):
            found.add(entry)
    return [entry for entry in sources if entry in found]


def _telling(options):
    """Without what cannot change a result."""
    return {
        key: _telling(value) if isinstance(value, Mapping) else value
        for key, value in options.items()
        if key not in NEUTRAL or (key == "sample_every" and options.get("keep_adapters", False))
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
