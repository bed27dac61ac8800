"""Puts the candidates of several entries together, drawn of the same scenes in different ways."""

from dataclasses import dataclass, replace

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.records import Candidate, Scene
from narrative_jax.data.datasets import open_records, write_records
from narrative_jax.runs.candidates import open_candidates
from narrative_jax.runs.directory import Context

INPUTS = ("sources",)
ALONE = True
_SAME = ("split", "scenes", "scene_seed")


@dataclass(frozen=True)
class Options:
    """`sources` are generate entries of the same scenes."""

    sources: tuple[str, ...]


def check(context: Context, options: Options) -> None:
    """Raise InputError for what draws nothing, and for entries of other scenes."""
    entries = [name for name, section in context.config.items() if getattr(section, "stage", "") == "generate"]
    for name in options.sources:
        check_name("generate entry", name, entries)
    if len(set(options.sources)) < max(2, len(options.sources)):
        raise InputError(f"sources {options.sources}", "two or more are put together, each once", "name others")
    for name in options.sources[1:]:
        for key in _SAME:
            one, other = (context.config[each].get(key, 0) for each in (options.sources[0], name))
            if one != other:
                given = f"{name}.{key} {other!r} beside {one!r} of {options.sources[0]}"
                raise InputError(given, "they draw the same scenes", "set it alike")


def run(context: Context, options: Options) -> dict[str, float]:
    """Leave the scenes, and by scene all candidates, whose ids and generators bear the names of their entries."""
    first, *_ = options.sources
    scenes = open_records(context.path(first) / "scenes", Scene)
    write_records(context.folder / "scenes", scenes)
    drawn = {name: open_candidates(context, name) for name in options.sources}
    rows: dict[str, list[tuple[str, int]]] = {}
    for name, candidates in drawn.items():
        for row, scene in enumerate(candidates.columns("scene_id")["scene_id"]):
            rows.setdefault(scene, []).append((name, row))

    def together():
        for of_scene in rows.values():
            for name, row in of_scene:
                found: Candidate = drawn[name][row]
                yield replace(found, id=f"{found.id}/{name}", generator=name)

    write_records(context.folder / "candidates", together())
    return {"scenes": len(scenes), "candidates": sum(map(len, rows.values()))}
