"""Annotation: what several annotators say of pictures, put together, and what people say of that."""

import json
from dataclasses import replace

import numpy as np
import one_entry
import pytest

from narrative_jax.annotators.server import ServerAnnotator, _read_critiques
from narrative_jax.core.chat import UnfitError
from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Annotation, Candidate, Preference, Scene, Score
from narrative_jax.data.annotations import agreement, majorities, merged, read_verdicts, unfit, verified
from narrative_jax.data.datasets import open_records, write_records
from narrative_jax.data.sources import storybook_training_set
from narrative_jax.rewards.base import ASPECTS
from narrative_jax.runs.annotations import open_annotated

LOOKS = "visual_quality"


def said(picture, *scores, aspect=LOOKS):
    """What annotators a, b, ... say."""
    return [
        Annotation(picture, aspect, f"{picture} {name}.", score, name)
        for name, score in zip("abc", scores, strict=False)
    ]


# Put together


def test_several_annotations_become_one():
    one, other = merged([*said("x", 4.0, 3.0, 3.2), *said("y", 1.0, 5.0, 4.5)], spread=1.5)
    assert one == Annotation("x", LOOKS, "x c.", 3.4, "a b c", "done"), "the words of the nearest to the mean"
    assert (other.score, other.status, other.critique) == (3.5, "disputed", "y c.")


def test_the_majority_prefers():
    """Two of three prefer x over y though the mean is lower; x and z are a tie, one each way."""
    scene_of = {"x": "s", "y": "s", "z": "s", "w": "alone"}
    annotations = [*said("x", 3.0, 3.0, 1.0), *said("y", 2.9, 2.9, 4.0), *said("z", 2.0, 3.0, 2.0), *said("w", 1, 1, 1)]
    found = majorities(annotations, scene_of)
    expected = [
        Preference("x", "y", LOOKS, False, -0.93),
        Preference("x", "z", LOOKS, True),
        Preference("y", "z", LOOKS, False),
    ]
    assert [replace(each, gap=None) for each in found] == [replace(each, gap=None) for each in expected]
    assert found[0].gap == pytest.approx((0.1 + 0.1 - 3.0) / 3)
    assert agreement(annotations, scene_of) == {LOOKS: pytest.approx(4 / 6)}


def test_what_teaches_nothing():
    fit = Annotation("x", LOOKS, "It is blurred.", 2.0, "a")
    assert unfit(fit) == ""
    assert unfit(replace(fit, critique=" \n")) == "an empty critique"
    for score in (None, 0.9, 5.1, float("nan")):
        assert unfit(replace(fit, score=score)).startswith(f"a score of {score}, not from 1 to 5")


def test_people_have_the_last_word(tmp_path):
    verdicts = {
        "x": {"verdict": "corrected", "critique": "Ann is cut.", "score": 2},
        "y": {"verdict": "dropped"},
        "z": {"verdict": "verified"},
    }
    lines = [json.dumps({"candidate_id": id, "aspect": LOOKS, **each}) for id, each in verdicts.items()]
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    annotations = merged([each for picture in "wxyz" for each in said(picture, 1.0, 5.0, 3.0)], 1.0)
    found = verified(annotations, read_verdicts(tmp_path / "said.jsonl"))
    assert [(each.candidate_id, each.status, each.score) for each in found] == [
        ("w", "disputed", 3.0),
        ("x", "corrected", 2),
        ("z", "verified", 3.0),
    ]
    assert found[1].critique == "Ann is cut."
    with pytest.raises(InputError, match="a verdict on visual_quality of 'y': there is no such annotation"):
        verified([each for each in annotations if each.candidate_id != "y"], read_verdicts(tmp_path / "said.jsonl"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"candidate_id": "x", "aspect": "a", "verdict": "good"}', "unknown verdict of .*said.jsonl:2 'good'"),
        ('{"candidate_id": "x", "aspect": "b", "verdict": "dropped"}', "said.jsonl:2: b of 'x': it has two verdicts"),
        ('{"aspect": "a", "verdict": "dropped"}', "said.jsonl:2.*candidate_id"),
        ('{"candidate_id": "x", "aspect": "a", "verdict": "corrected", "score": 7}', "a score of 7, not from 1 to 5"),
        ('{"candidate_id": "x", "aspect": "a", "verdict": "corrected", "critique": ""}', "it has an empty critique"),
        ('{"candidate_id": "x", "aspect": "a", "verdict": "dropped", "why": 1}', "why"),
    ],
)
def test_verdicts_that_are_none(tmp_path, line, message):
    first = '{"candidate_id": "x", "aspect": "b", "verdict": "verified"}'
    (tmp_path / "said.jsonl").write_text(f"{first}\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_verdicts(tmp_path / "said.jsonl")


# The stage


@pytest.fixture
def workdir(tmp_path):
    """Of three scenes a true picture, a blank one and one with noise, with scores that like noise least."""
    examples = storybook_training_set("true", 3).batch(range(3))
    rng, pictures, scores = np.random.default_rng(0), [], []
    for scene, image in ((each.scene, each.target) for each in examples):
        noisy = np.uint8((image + rng.normal(0, 60, image.shape)).clip(0, 255))
        for place, (shown, score) in enumerate(((image, 1.0), (np.full_like(image, 255), 0.5), (noisy, 0.0))):
            pictures.append(Candidate(f"{scene.id}/{place}", scene.id, shown, 0, ""))
            scores.append(Score(pictures[-1].id, "proxies", (score,)))
    write_records(tmp_path / "drawn" / "candidates", pictures)
    write_records(tmp_path / "drawn" / "scenes", [each.scene for each in examples])
    write_records(tmp_path / "scored" / "scores", scores)
    return tmp_path


def config(**changes):
    return {
        "scenes": "",
        "drawn": {"stage": "generate"},
        "scored": {"stage": "score", "source": "drawn", "reward": "raters"},
        "annotated": {"stage": "annotate", "source": "drawn", "annotator": "raters", **changes},
    }


def test_true_pictures_are_preferred(workdir):
    numbers = one_entry.run(config(raters={"seeds": (0, 1, 2)}), "annotated", workdir)
    assert numbers["annotations"] == 27 and numbers["preferences"] == 27 and numbers["rejected"] == 0
    annotations = list(open_records(workdir / "annotated" / "annotations", Annotation))
    assert {each.aspect for each in annotations} == set(ASPECTS)
    assert {each.annotator for each in annotations} == {"rater-0 rater-1 rater-2"}
    preferred = [each.chosen_id[-1] for each in open_records(workdir / "annotated" / "preferences", Preference)]
    assert preferred.count("0") > 15
    assert all(0.5 < numbers[f"agreement/{aspect}"] <= 1 for aspect in ASPECTS)
    queue = [json.loads(line) for line in (workdir / "annotated" / "queue.jsonl").read_text().splitlines()]
    assert len(queue) == numbers["disputed"] and all(each["status"] == "disputed" for each in queue)


def test_the_best_of_each_scene_are_annotated(workdir):
    numbers = one_entry.run(config(source="scored", per_scene=2), "annotated", workdir)
    assert numbers["annotations"] == 18 and numbers["preferences"] == 9
    ids = open_records(workdir / "annotated" / "annotations", Annotation).columns("candidate_id")["candidate_id"]
    assert {id[-1] for id in ids} == {"0", "1"}


def test_what_was_dropped_teaches_no_preference(workdir):
    ids = open_records(workdir / "drawn" / "candidates", Candidate).columns("id")["id"]
    line = {"candidate_id": ids[0], "aspect": LOOKS, "verdict": "dropped"}
    (workdir / "said.jsonl").write_text(json.dumps(line))
    numbers = one_entry.run(config(verdicts=str(workdir / "said.jsonl")), "annotated", workdir)
    assert numbers["annotations"] == 26 and numbers["preferences"] == 25 and numbers["rejected"] == 1
    pairs = open_annotated(one_entry.entry(config(), "annotated", workdir), "annotated", ASPECTS)
    looks = pairs.better[:, ASPECTS.index(LOOKS)]
    assert np.isnan(looks).sum() == 2 and not np.isnan(np.delete(pairs.better, ASPECTS.index(LOOKS), 1)).any()
    assert pairs.said(ids[0], ASPECTS)[ASPECTS.index(LOOKS)] == "" and all(pairs.said(ids[1], ASPECTS))
    for (first, second), better in zip(pairs.ids, pairs.better, strict=True):
        assert first < second and set(better[~np.isnan(better)]) <= {-1.0, 0.0, 1.0}


def test_a_corrected_score_is_preferred_by(workdir):
    """Raters liked the true picture, a person did not."""
    ids = open_records(workdir / "drawn" / "candidates", Candidate).columns("id")["id"][:3]
    line = {"candidate_id": ids[0], "aspect": LOOKS, "verdict": "corrected", "score": 1.0, "critique": "It is bad."}
    (workdir / "said.jsonl").write_text(json.dumps(line))

    def preferred(**changes):
        numbers = one_entry.run(config(**changes), "annotated", workdir)
        found = open_records(workdir / "annotated" / "preferences", Preference)
        of_first = [each for each in found if each.aspect == LOOKS and ids[0] in (each.chosen_id, each.rejected_id)]
        return [each.chosen_id == ids[0] for each in of_first if not each.tie], numbers[f"agreement/{LOOKS}"]

    before, agreed = preferred()
    (workdir / "annotated").rename(workdir / "before")
    after, still = preferred(verdicts=str(workdir / "said.jsonl"))
    assert any(before) and not any(after)
    assert agreed == still, "annotators agree among themselves as they did"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotator": "rater"}, "unknown annotator 'rater'"),
        ({"per_scene": 2}, "per_scene 2: drawn gives no scores to choose the best by"),
        ({"per_scene": 1, "source": "scored"}, "per_scene 1: two pictures of a scene are compared"),
        ({"spread": 0.0}, "spread 0.0"),
        ({"source": ""}, "source ''"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(InputError, match=message):
        one_entry.check(config(**changes), "annotated")


def test_own_scenes_have_no_raters():
    with pytest.raises(InputError, match="annotator 'raters': it knows Storybook's own scenes only; take 'server'"):
        one_entry.check({**config(), "scenes": "mine.jsonl"}, "annotated")


# A model behind a server


def test_critiques_of_a_server(monkeypatch):
    answer = {aspect: {"critique": f" {aspect}. ", "score": 3} for aspect in ASPECTS}
    assert _read_critiques(answer)[LOOKS] == ("visual_quality.", 3.0)
    for wrong in (
        None,
        {},
        {**answer, LOOKS: {"critique": "", "score": 3}},
        {**answer, LOOKS: {"critique": "a", "score": 6}},
        {**answer, LOOKS: {"critique": "a", "score": True}},
        {**answer, "more": {}},
        {aspect: answer[aspect] for aspect in ASPECTS[:2]},
    ):
        with pytest.raises(UnfitError, match="each with a critique and a score from 1 to 5"):
            _read_critiques(wrong)
    annotator = ServerAnnotator("http://localhost:8000/v1", "vlm", budget=2, at_once=1)
    asked = []

    def ask(self, request, about, read):
        asked.append(request["messages"][0]["content"])
        return answer, read(answer)

    monkeypatch.setattr(ServerAnnotator, "_ask", ask)
    (example,) = storybook_training_set("true", 1).batch(range(1))
    picture = Candidate("c", example.scene.id, example.target, 0, "")
    found = annotator.annotate([picture, picture], [example.scene] * 2)
    assert [each.aspect for each in found] == [*ASPECTS, *ASPECTS] and found[0].annotator == "server vlm"
    pictures = [part for part in asked[0] if part["type"] == "image_url"]
    assert len(pictures) == 1 + sum(len(subject.images) for subject in example.scene.subjects)
    with pytest.raises(InputError, match="budget 2"):
        annotator.annotate([picture], [example.scene])


# Several entries' pictures


def test_pictures_of_several_entries_are_put_together(tmp_path):
    examples = storybook_training_set("true", 2).batch(range(2))
    for name, count in {"one": 1, "other": 2}.items():
        pictures = [
            Candidate(f"{each.scene.id}/{place}", each.scene.id, each.target, place, "baseline")
            for each in examples
            for place in range(count)
        ]
        write_records(tmp_path / name / "candidates", pictures)
        write_records(tmp_path / name / "scenes", [each.scene for each in examples])
    draw = {"stage": "generate", "split": "train", "scenes": 2, "scene_seed": 0}
    found = {"one": draw, "other": draw, "all": {"stage": "gather", "sources": ("one", "other")}}
    assert one_entry.run(found, "all", tmp_path) == {"scenes": 2, "candidates": 6}
    drawn = list(open_records(tmp_path / "all" / "candidates", Candidate))
    first = examples[0].scene.id
    assert [each.id for each in drawn[:3]] == [f"{first}/0/one", f"{first}/0/other", f"{first}/1/other"]
    assert [each.generator for each in drawn] == ["one", "other", "other"] * 2
    assert [scene.id for scene in open_records(tmp_path / "all" / "scenes", Scene)] == [
        each.scene.id for each in examples
    ]
    for changes, message in (
        ({"other": {**draw, "scene_seed": 1}}, "other.scene_seed 1 beside 0 of one: they draw the same scenes"),
        ({"all": {"stage": "gather", "sources": ("one",)}}, "two or more are put together"),
        ({"all": {"stage": "gather", "sources": ("one", "two")}}, "unknown generate entry 'two'"),
    ):
        with pytest.raises(InputError, match=message):
            one_entry.check({**found, **changes}, "all")
