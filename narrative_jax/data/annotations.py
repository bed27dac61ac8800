"""Annotations put together: one of each aspect of a picture, and what several annotators prefer."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.records import Annotation, Preference
from narrative_jax.data.reading import field, json_lines

LOWEST, HIGHEST = 1.0, 5.0  # scores
DONE, DISPUTED, VERIFIED, CORRECTED, DROPPED = "done", "disputed", "verified", "corrected", "dropped"
VERDICTS = VERIFIED, CORRECTED, DROPPED  # what people say of an annotation
_VERDICT = ("candidate_id", "aspect", "verdict", "critique", "score")


def unfit(annotation: Annotation) -> str:
    """Why an annotation teaches nothing, "" where it does."""
    if not annotation.critique.strip():
        return "an empty critique"
    if annotation.score is None or not LOWEST <= annotation.score <= HIGHEST:
        return f"a score of {annotation.score}, not from {LOWEST:g} to {HIGHEST:g}"
    return ""


def merged(annotations: Iterable[Annotation], spread: float) -> list[Annotation]:
    """One annotation for each aspect of a picture: the mean score, and the critique whose score is nearest to it.

    Where scores are more than `spread` apart it is disputed: people should look at it. In order of appearance.
    """
    found = defaultdict(list)
    for each in annotations:
        found[each.candidate_id, each.aspect].append(each)
    together = []
    for same in found.values():
        scores = np.array([each.score for each in same])
        nearest = same[int(abs(scores - scores.mean()).argmin())]
        status = DISPUTED if np.ptp(scores) > spread else DONE
        names = " ".join(dict.fromkeys(each.annotator for each in same))
        together.append(replace(nearest, score=round(float(scores.mean()), 2), annotator=names, status=status))
    return together


def majorities(annotations: Iterable[Annotation], scene_of: Mapping[str, str]) -> list[Preference]:
    """Of each two pictures of a scene, by aspect, the one to which more annotators give the higher score.

    As many for either, or for none, is a tie. `gap` is the difference of mean scores. In order of appearance.
    """
    scores, pictures = defaultdict(dict), defaultdict(dict)
    for each in annotations:
        scores[each.aspect, each.candidate_id][each.annotator] = each.score
        pictures[each.aspect, scene_of[each.candidate_id]][each.candidate_id] = None
    preferences = []
    for (aspect, _), ids in pictures.items():
        for first, second in combinations(ids, 2):
            one, other = scores[aspect, first], scores[aspect, second]
            gaps = np.array([one[name] - other[name] for name in one if name in other])
            votes = int(np.sign(gaps.round(6)).sum())
            chosen, rejected, sign = (second, first, -1) if votes < 0 else (first, second, 1)
            gap = float(sign * gaps.mean()) if len(gaps) else None
            preferences.append(Preference(chosen, rejected, aspect, tie=votes == 0, gap=gap))
    return preferences


def verified(annotations: Sequence[Annotation], verdicts: Mapping[tuple[str, str], Mapping]) -> list[Annotation]:
    """Annotations as people left them: those they dropped are gone, those they corrected have their words and score.

    A verdict, by picture and aspect, is {"verdict", "critique"?, "score"?}. Raises InputError for one of an unknown
    annotation.
    """
    known = {(each.candidate_id, each.aspect) for each in annotations}
    if strange := [key for key in verdicts if key not in known]:
        given = f"a verdict on {strange[0][1]} of {strange[0][0]!r}"
        raise InputError(given, "there is no such annotation", "remove the line")
    kept = []
    for each in annotations:
        said = verdicts.get((each.candidate_id, each.aspect), {"verdict": each.status})
        if said["verdict"] != DROPPED:
            words = {name: said[name] for name in ("critique", "score") if name in said}
            kept.append(replace(each, status=said["verdict"], **words))
    return kept


def rescored(annotations: Iterable[Annotation], verdicts: Mapping[tuple[str, str], Mapping]) -> list[Annotation]:
    """What annotators said, but where people gave a score, as in `verified`, that one instead of every annotator's."""
    scores = {key: said["score"] for key, said in verdicts.items() if "score" in said}
    return [replace(each, score=scores.get((each.candidate_id, each.aspect), each.score)) for each in annotations]


def agreement(annotations: Sequence[Annotation], scene_of: Mapping[str, str]) -> dict[str, float]:
    """How often one annotator prefers the picture that the majority of all prefers, by aspect; ties are left out."""
    preferred = {
        (each.aspect, frozenset((each.chosen_id, each.rejected_id))): each for each in majorities(annotations, scene_of)
    }
    same: dict[str, list[bool]] = defaultdict(list)
    for name in dict.fromkeys(each.annotator for each in annotations):
        for each in majorities((one for one in annotations if one.annotator == name), scene_of):
            other = preferred[each.aspect, frozenset((each.chosen_id, each.rejected_id))]
            if not (each.tie or other.tie):
                same[each.aspect].append(each.chosen_id == other.chosen_id)
    return {aspect: float(np.mean(found)) for aspect, found in same.items()}


def read_verdicts(path: str | Path) -> dict[tuple[str, str], dict]:
    """What people said of annotations, for `verified`: a JSON object a line with `_VERDICT`'s fields, by picture and
    aspect.

    Raises InputError for an unknown verdict, two on one annotation, and corrections that teach nothing.
    """
    found: dict[tuple[str, str], dict] = {}
    for fields, where in json_lines(Path(path), _VERDICT):
        key = tuple(field(fields, name, str, where) for name in _VERDICT[:2])
        check_name(f"verdict of {where}", fields.get("verdict", ""), VERDICTS)
        if key in found:
            raise InputError(f"{where}: {key[1]} of {key[0]!r}", "it has two verdicts", "remove one of the lines")
        found[key] = {name: fields[name] for name in _VERDICT[2:] if name in fields}
        said = Annotation(*key, fields.get("critique", "as it is"), fields.get("score", LOWEST), "")
        if reason := unfit(said):
            raise InputError(f"{where}", f"it has {reason}", "correct it")
    return found
