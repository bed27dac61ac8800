"""Says how true critiques are: how many of the faults that they name the oracle finds, how many of its they name."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.rewards.base import ASPECTS
from narrative_jax.rewards.oracle import facts_of, judge_images
from narrative_jax.runs.annotations import read_critiques
from narrative_jax.runs.candidates import open_candidates, pictures_entry
from narrative_jax.runs.critiques import check_critiques
from narrative_jax.runs.directory import Context
from narrative_jax.runs.scenes import open_scenes
from narrative_jax.storybook.critiques import critique, faults

INPUTS = ("source",)
ALONE = True

_CHUNK = 256  # pictures that the oracle looks at together


@dataclass(frozen=True)
class Options:
    """`source` is the entry whose annotators, or whose reward, criticised pictures of Storybook's scenes."""

    source: str


def check(context: Context, options: Options) -> None:
    """Raise InputError for an entry that leaves no critiques, and for scenes that the oracle cannot know."""
    check_critiques(context, options.source, options.source)
    collected = context.config[pictures_entry(context.config, options.source)].stage == "collect"
    if collected or context.config.get("scenes", ""):
        given, rule = f"faults of {options.source!r}", "the oracle knows Storybook's own scenes only"
        raise InputError(given, rule, "leave the entry out")


def run(context: Context, options: Options) -> dict[str, float]:
    """Return how many critiques there are, their mean length in characters, and how true they are.

    That is by kinds of fault, of whom and of what of theirs (which colour it is instead is not compared): how many of
    those named are there, precision/<aspect>/<kind>, and how many of those there are named, recall/<aspect>/<kind>,
    with how many there are of each, named/... and there/.... Raises Stopped between two chunks.
    """
    said = read_critiques(context, options.source)
    counts = {"named": Counter(), "there": Counter(), "right": Counter()}
    for id, true in _true_critiques(context, options.source, {id for id, _ in said}):
        for aspect in ASPECTS:
            if (id, aspect) not in said:
                continue
            named, there = faults(said[id, aspect]), faults(true[aspect])
            for name, kinds in {"named": named, "there": there, "right": named & there}.items():
                counts[name].update(f"{aspect}/{kind}" for kind, _ in kinds)
    numbers = {"count": len(said), "characters": sum(map(len, said.values())) / len(said)}
    numbers |= {f"{name}/{kind}": count for name in ("named", "there") for kind, count in counts[name].items()}
    for share, name in (("precision", "named"), ("recall", "there")):
        numbers |= {f"{share}/{kind}": counts["right"][kind] / count for kind, count in counts[name].items()}
    return numbers


def _true_critiques(context, source, ids) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The id of each of the pictures, and what the oracle would say of its aspects; raises Stopped."""
    candidates = open_candidates(context, pictures_entry(context.config, source))
    scenes, row_of = open_scenes(candidates)
    rows = [row for row, id in enumerate(candidates.columns("id")["id"]) if id in ids]
    for start in range(0, len(rows), _CHUNK):
        if context.stop.requested:
            raise Stopped
        found = [candidates[row] for row in rows[start : start + _CHUNK]]
        asked = [scenes[row_of[each.scene_id]] for each in found]
        findings = judge_images([each.image for each in found], asked).findings
        for each, scene, seen in zip(found, asked, findings, strict=True):
            yield each.id, {aspect: critique(aspect, seen, facts_of(scene)) for aspect in ASPECTS}
