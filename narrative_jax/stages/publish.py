"""Puts annotated pairs of two entries together as one data set for others, NI-RLHF in TFDS."""

from dataclasses import dataclass
from zlib import crc32

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Annotation
from narrative_jax.data.datasets import open_records
from narrative_jax.data.ni_rlhf import NAME, check_apart, pair, write_ni_rlhf
from narrative_jax.rewards.base import ASPECTS
from narrative_jax.runs.annotations import ANNOTATIONS, makes_annotations, open_annotated
from narrative_jax.runs.directory import Context

INPUTS = ("train", "test")
ALONE = True


@dataclass(frozen=True)
class Options:
    """`train` and `test` are entries that annotate; they become the splits of these names."""

    train: str
    test: str


def check(context: Context, options: Options) -> None:
    """Raise InputError unless both annotate."""
    for split in INPUTS:
        name = getattr(options, split)
        if not makes_annotations(context, name):
            raise InputError(f"{split} {name!r}", "it annotates nothing", "name an entry that annotates")


def run(context: Context, options: Options) -> dict[str, float]:
    """Write the data set ni_rlhf; returns how many pairs each split has.

    Raises InputError where the splits share a scene or a subject.
    """
    annotated = {split: open_annotated(context, getattr(options, split), ASPECTS) for split in INPUTS}
    check_apart({split: _scenes(pairs) for split, pairs in annotated.items()})
    splits = {split: _examples(context, getattr(options, split), pairs) for split, pairs in annotated.items()}
    counts = write_ni_rlhf(context.folder / NAME, ASPECTS, splits)
    return {f"pairs/{split}": count for split, count in counts.items()}


def _scenes(pairs):
    """Each scene of the pairs once."""
    ids = dict.fromkeys(pairs.pictures.scene_ids([first for first, _ in pairs.ids]))
    return map(pairs.pictures.scene, ids)


def _examples(context, name, pairs):
    records = open_records(context.path(name) / ANNOTATIONS, Annotation)
    said = {(each.candidate_id, each.aspect): each for each in records}
    for ids, better in zip(pairs.ids, pairs.better, strict=True):
        turned = crc32(" ".join(ids).encode()) % 2  # ids are sorted, and may end in who drew the picture
        pictures = tuple(pairs.pictures.candidate(id) for id in (reversed(ids) if turned else ids))
        scene = pairs.pictures.scene(pictures[0].scene_id)
        yield pair(scene, pictures, dict(zip(ASPECTS, -better if turned else better, strict=True)), said)
