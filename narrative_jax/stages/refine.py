"""Makes of pictures and their subjects what is worth learning from: subjects on white, pairs that show the same.

UPER's refinement. Backgrounds of the subjects' images are removed; then an annotator says how sure it is that picture
and subject images show the same, and pairs below a threshold are left out, each with its reason.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from narrative_jax.annotators.base import SURE
from narrative_jax.core import processes
from narrative_jax.core.errors import InputError
from narrative_jax.core.options import files_in
from narrative_jax.core.records import Annotation, Candidate, Example, Scene
from narrative_jax.data.backgrounds import BACKGROUNDS, GIVEN, on_white, unfit
from narrative_jax.data.datasets import open_records
from narrative_jax.runs.annotations import annotator_of
from narrative_jax.runs.backgrounds import background_of
from narrative_jax.runs.candidates import open_candidates
from narrative_jax.runs.chunks import leave_kinds, leave_records
from narrative_jax.runs.directory import Context
from narrative_jax.runs.examples import check_pairs, leave_kept, open_pairs
from narrative_jax.trainees.base import TrainingSetOptions, check_source

INPUTS = ("source",)
FOREGROUND, FOREGROUNDS = "foreground", "foregrounds"  # the aspect of what is said of references, and its folder
_CHUNK = 64  # pairs between two looks at the stop flag


@dataclass(frozen=True)
class Options:
    """Pairs are what the collect entry `source` took in, or a training set's.

    `background` is how it is removed, a name of `data.backgrounds.BACKGROUNDS`, "" not at all; `annotator` who compares
    a pair, "" nobody, which then keeps all that have a foreground. Their options stand in sections of their names. A
    pair needs a rating of `threshold` from 0 to 5.
    """

    source: str = ""
    training_set: TrainingSetOptions | None = None
    background: str = GIVEN
    annotator: str = ""
    threshold: float = 3.0


def sections(context: Context) -> list[str]:
    """Those of the background's and the annotator's options."""
    return [name for name in (*BACKGROUNDS, *context.tables.annotators) if name in context.entry]


def check(context: Context, options: Options) -> None:
    """Raise InputError for pairs from nowhere, unknown names and options, and an annotator that cannot know."""
    check_source(context, options.training_set)
    if options.source:
        check_pairs(context, options.source)
    background_of(context)
    if options.annotator:
        annotator = annotator_of(context)
        if annotator.needs_facts and options.source:
            rule = "it knows Storybook's own scenes only"
            raise InputError(f"annotator {options.annotator!r}", rule, "take 'server', a model that looks at them")
    if not 0 <= options.threshold <= SURE:
        raise InputError(f"threshold {options.threshold!r}", f"it is a rating from 0 to {SURE}", "give one, e.g. 3")


def files(context: Context) -> Iterable[str]:
    """The background's."""
    by = background_of(context)
    return files_in(by) if by else ()


def run(context: Context, options: Options) -> dict[str, float]:
    """Leave all pairs, their annotations, which are kept, and in rejects.jsonl the others with reason and words.

    Returns their numbers. Raises InputError where none is kept, Stopped between two chunks.
    """
    pairs = open_pairs(context, options.source, options.training_set)
    by = background_of(context)

    def refined(part):
        examples = pairs.read(part)
        scenes = [example.scene if by is None else on_white(example.scene, by) for example in examples]
        pictures = [Candidate(each.scene.id, each.scene.id, each.target, 0, pairs.origin) for each in examples]
        found = ["" if by is None else unfit(scene) for scene in scenes]
        looks = [
            Annotation(scene.id, FOREGROUND, said, None, options.background)
            for scene, said in zip(scenes, found, strict=True)
        ]
        return {"scenes": scenes, "candidates": pictures, FOREGROUNDS: looks}

    kinds = {"scenes": Scene, "candidates": Candidate, FOREGROUNDS: Annotation}
    leave_kinds(context, context.folder, kinds, range(pairs.count), refined, _CHUNK, f"{context.name}: pairs")
    looks = open_records(context.folder / FOREGROUNDS, Annotation).columns("candidate_id", "critique")
    unfit_for = dict(zip(*looks.values(), strict=True))
    if options.annotator:
        _annotate(context, options, unfit_for)
    return processes.first_does(f"{context.name}: numbers", lambda: _sieve(context, options, unfit_for))


def _annotate(context, options, unfit_for):
    """Leave an annotation of each pair that has a foreground; `unfit_for` says by id why one has none, "" if it has."""
    annotator = annotator_of(context)
    scenes, candidates = open_records(context.folder / "scenes", Scene), open_candidates(context, context.name)
    rows = [row for row, reason in enumerate(unfit_for.values()) if not reason]

    def compare(part):
        return annotator.same_subject([Example(scenes[row], candidates[row].image) for row in part])

    title = f"{context.name}: annotations"
    leave_records(context, context.folder, "annotations", Annotation, rows, compare, _CHUNK, title)


def _sieve(context, options, unfit_for):
    """Write which pairs are kept, and why others are not; their numbers."""
    said = open_records(context.folder / "annotations", Annotation) if options.annotator else ()
    said = {each.candidate_id: each for each in said}
    dropped = [{"id": id, "reason": reason} for id, reason in unfit_for.items() if reason]
    for id, each in said.items():
        if each.score < options.threshold:
            dropped.append({"id": id, "reason": "another subject", "rating": each.score, "words": each.critique})
    left_out = {each["id"] for each in dropped}
    ids = [id for id in unfit_for if id not in left_out]
    counts = Counter(each["reason"] for each in dropped)
    leave_kept(context.folder, ids, dropped)
    if not ids:
        told = ", ".join(f"{count} for {reason!r}" for reason, count in counts.items())
        raise InputError(f"{len(unfit_for)} pairs", f"all are dropped: {told}", "lower the threshold, or look at them")
    numbers = {f"dropped/{reason.replace(' ', '_')}": count for reason, count in counts.items()}
    return {"pairs": len(unfit_for), "kept": len(ids), **numbers}
