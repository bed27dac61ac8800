"""Critiques that entries left, and of those that annotate also points by aspect, and which of two is preferred."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.options import parse
from narrative_jax.core.records import Annotation, Preference
from narrative_jax.data.datasets import open_records
from narrative_jax.runs.answers import keeping_answers
from narrative_jax.runs.candidates import pictures_entry
from narrative_jax.runs.directory import Context
from narrative_jax.runs.preferences import Pictures, open_pictures

ANNOTATE = "annotate"
ANNOTATIONS = "annotations"  # a folder of critiques, of an entry that annotates or scores with a reward that writes
RAW = "raw"  # a folder of it: what each annotator said


@dataclass(frozen=True)
class AnnotatedPairs:
    """Pairs of pictures of a scene, `ids`, with `better` f32[n, aspects]: 1 where the first is, -1 the second, 0 for a
    tie, NaN where nobody said. `critiques` are the words on an aspect of a picture, if there are any.
    """

    ids: Sequence[tuple[str, str]]
    better: np.ndarray
    critiques: dict[tuple[str, str], str]
    pictures: Pictures

    def said(self, id: str, aspects: Sequence[str]) -> list[str]:
        """The critiques of a picture by aspect, "" where there is none."""
        return [self.critiques.get((id, aspect), "") for aspect in aspects]


def annotator_of(context: Context) -> Any:
    """Who annotates for the context's entry, an `annotators.base.Annotator`; a model's answers stay in the run.

    Raises InputError.
    """
    name, known = context.entry.annotator, context.tables.annotators
    check_name("annotator", name, known)
    found = parse(known[name], context.entry.get(name, {}), f"{context.name}.{name}")
    return keeping_answers(context, found)


def makes_annotations(context: Context, name: str) -> bool:
    """Whether an entry leaves annotations."""
    return getattr(context.config.get(name, None), "stage", "") == ANNOTATE


def read_critiques(context: Context, name: str) -> dict[tuple[str, str], str]:
    """What an entry's annotators or its reward said of each picture, by its id and the aspect. Raises InputError."""
    said = open_records(context.path(name) / ANNOTATIONS, Annotation).columns("candidate_id", "aspect", "critique")
    return dict(zip(zip(said["candidate_id"], said["aspect"], strict=True), said["critique"], strict=True))


def open_annotated(context: Context, name: str, aspects: Sequence[str]) -> AnnotatedPairs:
    """What an entry left on these aspects. Raises InputError for damaged records, and for none on them."""
    rows: dict[tuple[str, ...], np.ndarray] = {}
    for each in open_records(context.path(name) / "preferences", Preference):
        if each.aspect not in aspects:
            continue
        key = tuple(sorted((each.chosen_id, each.rejected_id)))  # what is better does not show in the order
        side = 0.0 if each.tie else 1.0 if each.chosen_id == key[0] else -1.0
        rows.setdefault(key, np.full(len(aspects), np.nan, np.float32))[list(aspects).index(each.aspect)] = side
    if not rows:
        given = f"preferences of {name!r} on {', '.join(aspects)}"
        raise InputError(given, "there are none", "annotate these aspects, or ask about others")
    pictures = open_pictures(context, pictures_entry(context.config, name))
    return AnnotatedPairs(list(rows), np.stack(list(rows.values())), read_critiques(context, name), pictures)
