"""Has pictures annotated: by aspect a critique, a score, and which of two pictures of a scene is preferred (NI-RLHF).

Several annotators look at each picture. What they say is merged; where they are far apart it is disputed, and waits in
queue.jsonl for people, whose verdicts come back as a file.
"""

import json
from collections import Counter
from dataclasses import dataclass

from narrative_jax.core import processes
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.files import write_bytes
from narrative_jax.core.options import File
from narrative_jax.core.records import Annotation
from narrative_jax.data.annotations import (
    DISPUTED,
    DROPPED,
    agreement,
    majorities,
    merged,
    read_verdicts,
    rescored,
    unfit,
    verified,
)
from narrative_jax.data.datasets import open_records, write_records
from narrative_jax.runs.annotations import RAW, annotator_of
from narrative_jax.runs.candidates import open_candidates, pictures_entry
from narrative_jax.runs.chunks import leave_records
from narrative_jax.runs.directory import Context
from narrative_jax.runs.examples import REJECTS
from narrative_jax.runs.scenes import open_scenes
from narrative_jax.runs.scores import standard_scores

INPUTS = ("source",)
QUEUE = "queue.jsonl"  # what people should look at
_CHUNK = 64  # pictures between two looks at the stop flag


@dataclass(frozen=True)
class Options:
    """`source` are pictures, or a score entry, of whose pictures the `per_scene` best of each scene are annotated
    (0: all).

    `annotator` says who looks at them; its options stand in a section of its name. Scores more than `spread` apart are
    disputed. `verdicts` is a file of what people said of merged annotations, a JSON object a line: candidate_id,
    aspect, verdict ("verified", "corrected" or "dropped"), and critique and score where they correct it.
    """

    source: str
    annotator: str
    per_scene: int = 0
    spread: float = 1.5
    verdicts: File = ""


def sections(context: Context) -> list[str]:
    """Those of the annotators' options."""
    return [name for name in context.tables.annotators if name in context.entry]


def check(context: Context, options: Options) -> None:
    """Raise InputError for pictures from nowhere, an unknown annotator, one that cannot know, and unread verdicts."""
    if not options.source:
        raise InputError(f"{context.name}.source ''", "pictures of an earlier entry are annotated", "name one")
    check_count("per_scene", options.per_scene)
    if options.per_scene == 1:
        raise InputError("per_scene 1", "two pictures of a scene are compared", "give 2 or more, or 0 for all")
    if options.per_scene and context.config[options.source].stage != "score":
        given, rule = f"per_scene {options.per_scene}", f"{options.source} gives no scores to choose the best by"
        raise InputError(given, rule, "name a score entry in source, or set it to 0")
    if not options.spread > 0:
        raise InputError(f"spread {options.spread!r}", "scores farther apart are disputed", "give points, e.g. 1.5")
    collected = context.config[pictures_entry(context.config, options.source)].stage == "collect"
    if annotator_of(context).needs_facts and (collected or context.config.scenes):
        rule = "it knows Storybook's own scenes only"
        raise InputError(f"annotator {options.annotator!r}", rule, "take 'server', a model that looks at them")
    if options.verdicts:
        read_verdicts(options.verdicts)


def run(context: Context, options: Options) -> dict[str, float]:
    """Leave what each annotator said in raw/, merged annotations, preferences by aspect, and what people should look
    at in queue.jsonl; what teaches nothing is in rejects.jsonl with its reason.

    Returns their numbers, and how often annotators agree on which of two is better. Raises InputError, Stopped between
    two chunks: what was said is kept, and not asked for again.
    """
    annotator = annotator_of(context)
    candidates = open_candidates(context, pictures_entry(context.config, options.source))
    scenes, row_of = open_scenes(candidates)

    def annotate(rows):
        pictures = [candidates[row] for row in rows]
        return annotator.annotate(pictures, [scenes[row_of[each.scene_id]] for each in pictures])

    rows = _chosen(context, options, candidates)
    leave_records(context, context.folder, RAW, Annotation, rows, annotate, _CHUNK, f"{context.name}: annotations")
    return processes.first_does(f"{context.name}: merged", lambda: _merge(context, options, candidates))


def _chosen(context, options, candidates):
    """The rows of the candidates that are annotated, in order."""
    if not options.per_scene:
        return list(range(len(candidates)))
    columns = candidates.columns("id", "scene_id")
    scores = standard_scores(context, options.source, columns["id"]).mean(1)
    best = {}
    for row, scene in enumerate(columns["scene_id"]):
        best.setdefault(scene, []).append(row)
    kept = (sorted(of_scene, key=lambda row: -scores[row])[: options.per_scene] for of_scene in best.values())
    return sorted(row for of_scene in kept for row in of_scene)


def _merge(context, options, candidates):
    said = list(open_records(context.folder / RAW, Annotation))
    fit = [each for each in said if not unfit(each)]
    rejects = [{**vars(each), "reason": reason} for each in said if (reason := unfit(each))]
    columns = candidates.columns("id", "scene_id")
    scene_of = dict(zip(columns["id"], columns["scene_id"], strict=True))
    annotations = merged(fit, options.spread)
    verdicts = read_verdicts(options.verdicts) if options.verdicts else {}
    kept = verified(annotations, verdicts)
    dropped = [key for key, each in verdicts.items() if each["verdict"] == DROPPED]
    rejects += [{"candidate_id": id, "aspect": aspect, "reason": "dropped by people"} for id, aspect in dropped]
    judged = [each for each in fit if (each.candidate_id, each.aspect) not in dropped]
    preferences = majorities(rescored(judged, verdicts), scene_of)
    if not preferences:
        given, rule = f"{len(said)} annotations of {options.source}", "of no scene two pictures are annotated"
        raise InputError(given, rule, "draw several of each, or look at rejects.jsonl")
    queue = [each for each in kept if each.status == DISPUTED]
    for name, lines in ((REJECTS, rejects), (QUEUE, map(vars, queue))):
        write_bytes(context.folder / name, "".join(f"{json.dumps(each)}\n" for each in lines).encode())
    write_records(context.folder / "annotations", kept)
    write_records(context.folder / "preferences", preferences)
    ties = Counter(each.aspect for each in preferences if each.tie)
    of = Counter(each.aspect for each in preferences)
    shares = {f"ties/{aspect}": ties[aspect] / count for aspect, count in of.items()}
    agreed = {f"agreement/{aspect}": share for aspect, share in agreement(judged, scene_of).items()}
    counts = {"annotations": len(kept), "preferences": len(preferences), "rejected": len(rejects)}
    return {**counts, "disputed": len(queue), **shares, **agreed}
