"""What is said of pictures, under them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from narrative_jax.core.files import read_json
from narrative_jax.core.records import Annotation, Candidate, Scene, Score
from narrative_jax.data.datasets import open_records
from narrative_jax.report.pictures import Picture, portraits_of, shown_picture
from narrative_jax.report.run import Run
from narrative_jax.runs.annotations import ANNOTATE, ANNOTATIONS
from narrative_jax.runs.candidates import pictures_entry
from narrative_jax.runs.scores import CALIBRATION

SCENES = 4  # of an entry


@dataclass(frozen=True)
class Criticised:
    """A picture, and what is said of it: aspect, words, and score, if there is one."""

    picture: Picture
    said: list[tuple[str, str, float | None]]


@dataclass(frozen=True)
class Row:
    """A scene: portraits by name, and pictures, the best and the worst where they have scores."""

    id: str
    prompt: str
    portraits: list[tuple[str, Picture]]
    pictures: list[Criticised]


def criticised(run: Run) -> Iterator[tuple[str, list[Row]]]:
    """Title and some scenes, by lot, of each entry whose annotators or whose reward criticised pictures."""
    scored = run.entries("score")
    calibrating = {run.config[name].get("calibration", "") for name in scored}  # one picture of each scene, by others
    written = [name for name in scored if name not in calibrating and (run.workdir / name / ANNOTATIONS).exists()]
    for entry in (*run.entries(ANNOTATE), *written):
        said = _said(run, entry, entry in written)
        folder = run.workdir / pictures_entry(run.config, entry)
        candidates, scenes = open_records(folder / "candidates", Candidate), open_records(folder / "scenes", Scene)
        row_of, scene_row_of = candidates.rows_by("id"), scenes.rows_by("id")
        of_scene: dict[str, list[str]] = {}
        for id, scene_id in zip(*candidates.columns("id", "scene_id").values(), strict=True):
            if id in said:
                of_scene.setdefault(scene_id, []).append(id)
        rows = []
        for scene_id in np.random.default_rng(0).permutation(list(of_scene))[:SCENES].tolist():
            scene = scenes[scene_row_of[scene_id]]
            ids = sorted(of_scene[scene_id], key=lambda id: _mean(said[id]), reverse=True)
            images = {id: candidates[row_of[id]].image for id in (ids[0], ids[-1])}
            shown = [Criticised(shown_picture(image, scene.prompt), said[id]) for id, image in images.items()]
            rows.append(Row(scene.id, scene.prompt, portraits_of(scene), shown))
        yield f"{entry}: {len(said):,} pictures", rows


def _said(run, entry, by_reward):
    """What is said of each picture by its id, with the annotators' points or the reward's score."""
    scores = {}
    if by_reward:
        aspects = read_json(run.workdir / entry / CALIBRATION)["aspects"]
        for each in open_records(run.workdir / entry / "scores", Score):
            scores |= {(each.candidate_id, aspect): score for aspect, score in zip(aspects, each.scores, strict=True)}
    said: dict[str, list] = {}
    for each in open_records(run.workdir / entry / ANNOTATIONS, Annotation):
        score = scores.get((each.candidate_id, each.aspect)) if each.score is None else each.score
        said.setdefault(each.candidate_id, []).append((each.aspect.replace("_", " "), each.critique, score))
    return said


def _mean(said):
    """Of the scores that there are; those without any are the last."""
    scores = [score for _, _, score in said if score is not None]
    return sum(scores) / len(scores) if scores else -np.inf
