"""Has a reward that writes critiques write them of each aspect of pictures, and says how true they are."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from narrative_jax.core import processes
from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Annotation
from narrative_jax.data.datasets import open_records
from narrative_jax.rewards.oracle import facts_of, judge_images
from narrative_jax.runs.annotations import ANNOTATIONS, read_critiques
from narrative_jax.runs.candidates import open_candidates, pictures_entry
from narrative_jax.runs.chunks import leave_records
from narrative_jax.runs.directory import Context
from narrative_jax.runs.rewards import (
    RewardOptions,
    check_reward,
    open_reward,
    reward_files,
    sections_of,
)
from narrative_jax.runs.scenes import open_scenes
from narrative_jax.storybook.critiques import critique, faults

INPUTS = ("source", "reward_from")
sections = sections_of

_CHUNK = 256  # pictures between two looks at the stop flag


@dataclass(frozen=True)
class Options(RewardOptions):
    """`source` is the entry whose pictures are criticised; where Storybook drew up their scenes, `gold` compares the
    faults that are named with those that the oracle finds.
    """

    source: str = field(kw_only=True)
    gold: bool = False


def check(context: Context, options: Options) -> None:
    """Raise InputError for a reward that writes nothing, and for the oracle on scenes that it cannot know."""
    if not options.source:
        raise InputError(f"{context.name}.source ''", "pictures of an earlier entry are criticised", "name one")
    collected = context.config[pictures_entry(context.config, options.source)].stage == "collect"
    own = collected or bool(context.config.get("scenes", ""))
    reward = check_reward(context, own)
    if not getattr(reward, "writes", False):
        raise InputError(f"reward {reward.name!r}", "it writes no critiques", "choose one that does, e.g. 'nireward'")
    if options.gold and own:
        raise InputError("gold True", "the oracle knows Storybook's own scenes only", "leave it out")


def files(context: Context) -> Iterable[str]:
    """The reward's."""
    return reward_files(context)


def run(context: Context, options: Options) -> dict[str, float]:
    """Leave the critiques as annotations without scores.

    Returns their number and mean length in characters; with `gold`, of faults by kind, of whom and of what of theirs
    (which colour it is instead is not compared), how many of those named are there, precision/<aspect>/<kind>, and how
    many of those there are named, recall/<aspect>/<kind>, with how many there are of each, named/... and there/....
    Raises InputError, Stopped between two chunks.
    """
    candidates = open_candidates(context, pictures_entry(context.config, options.source))
    scenes, row_of = open_scenes(candidates)
    reward = open_reward(context, candidates)

    def write(rows):
        found = [candidates[row] for row in rows]
        written = reward.write([each.image for each in found], [scenes[row_of[each.scene_id]] for each in found])
        return [
            Annotation(each.id, aspect, words, None, reward.name)
            for each, critiques in zip(found, written, strict=True)
            for aspect, words in zip(reward.aspects, critiques, strict=True)
        ]

    rows = range(len(candidates))
    leave_records(context, context.folder, ANNOTATIONS, Annotation, rows, write, _CHUNK, context.name)
    return processes.first_does(
        f"{context.name}: numbers", lambda: _numbers(context, options, candidates, reward.aspects)
    )


def _numbers(context, options, candidates, aspects):
    said = open_records(context.folder / ANNOTATIONS, Annotation).columns("critique")["critique"]
    numbers = {"count": len(said), "characters": sum(map(len, said)) / len(said)}
    return numbers | _compared(context, candidates, aspects) if options.gold else numbers


def _compared(context, candidates, aspects):
    """Precision and recall of the faults that are named, by aspect and kind."""
    said, (scenes, row_of) = read_critiques(context, context.name), open_scenes(candidates)
    counts = {"named": Counter(), "there": Counter(), "right": Counter()}
    for start in range(0, len(candidates), _CHUNK):
        found = [candidates[row] for row in range(start, min(start + _CHUNK, len(candidates)))]
        asked = [scenes[row_of[each.scene_id]] for each in found]
        findings = judge_images([each.image for each in found], asked).findings
        for each, scene, seen in zip(found, asked, findings, strict=True):
            for aspect in aspects:
                named = faults(said[each.id, aspect])
                there = faults(critique(aspect, seen, facts_of(scene)))
                for name, kinds in {"named": named, "there": there, "right": named & there}.items():
                    counts[name].update(f"{aspect}/{kind}" for kind, _ in kinds)
    numbers = {f"{name}/{kind}": count for name in ("named", "there") for kind, count in counts[name].items()}
    for share, name in (("precision", "named"), ("recall", "there")):
        numbers |= {f"{share}/{kind}": counts["right"][kind] / count for kind, count in counts[name].items()}
    return numbers
