"""Refinement: subjects on white, pairs that show the same, and the reason of each that is left out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import one_entry
import pytest
from ml_collections import ConfigDict
from PIL import Image

from narrative_jax import pipeline
from narrative_jax.annotators.base import SAME_SUBJECT
from narrative_jax.annotators.raters import RaterAnnotators
from narrative_jax.annotators.server import ServerAnnotator, _read
from narrative_jax.core.chat import UnfitError
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.core.records import Annotation, Candidate, Example, Scene
from narrative_jax.data import kinds
from narrative_jax.data.backgrounds import FoundMasks, GivenMasks, on_white, unfit
from narrative_jax.data.datasets import open_records
from narrative_jax.data.sources import storybook_scenes, storybook_training_set
from narrative_jax.runs.rewards import open_reward
from narrative_jax.runs.tables import Tables
from narrative_jax.stages import refine
from narrative_jax.storybook.datasets import TrainingSet

ADPO = Path(__file__).parents[1] / "configs" / "adpo.py"
SET = {"kind": "raw", "size": 96, "seed": 3, "characters": 1}


def config(**refine):
    found = load(f"{ADPO}:tiny")
    found.report = False
    with found.unlocked():
        found.refine = {"stage": "refine", "training_set": SET, "annotator": "raters", **refine}
        found.align.update(source="refine", algorithm="sft", sample_every=0)
        found.align.hyper = {}
    found.stages = ("refine", "align")
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("refine")
    pipeline.run(config(), workdir)
    return workdir


def test_subjects_stand_on_white(run):
    scenes = open_records(run / "refine" / "scenes", Scene)
    raw = storybook_training_set(**SET).batch(range(96))
    assert [scene.id for scene in scenes] == [example.scene.id for example in raw]
    busy = 0
    for scene, example in zip(scenes, raw, strict=True):
        (subject,), (before,) = scene.subjects, example.scene.subjects
        outside = ~before.masks
        np.testing.assert_array_equal(subject.images[before.masks], before.images[before.masks])
        assert (subject.images[outside] == 255).all()
        busy += (before.images[outside] != 255).any()
    assert busy > 20, "the raw ones have backgrounds"
    targets = open_records(run / "refine" / "candidates", Candidate)
    np.testing.assert_array_equal(np.stack([each.image for each in targets]), np.stack([e.target for e in raw]))


def test_pairs_of_others_are_left_out(run):
    """Of a fifth of the raw targets the subject is another one, or has a wrong attribute; a refined set has none."""
    kept = set(json.loads((run / "refine" / "kept.json").read_text()))
    rejects = [json.loads(line) for line in (run / "refine" / "rejects.jsonl").read_text().splitlines()]
    assert len(kept) + len(rejects) == 96 and not kept & {each["id"] for each in rejects}
    assert {each["reason"] for each in rejects} == {"another subject"}
    assert all(each["rating"] < 3 and each["words"] for each in rejects)
    assert 10 <= len(rejects) <= 35
    said = open_records(run / "refine" / "annotations", Annotation)
    assert len(said) == 96 and {each.aspect for each in said} == {SAME_SUBJECT}
    assert all(0 <= each.score <= 5 for each in said)


def test_what_is_kept_is_learned_from(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["refine/pairs"] == 96 and summary["refine/kept"] + summary["refine/dropped/another_subject"] == 96
    assert summary["align/step"] == 4 and (run / "align" / "adapter.safetensors").exists()


def test_one_character_where_one_is_asked_for():
    assert {len(scene.subjects) for scene in storybook_scenes("test", 20, characters=1)} == {1}
    assert {len(scene.subjects) for scene in storybook_scenes("test", 20)} == {1, 2}


def test_masks_that_do_not_fit():
    scene = storybook_scenes("train", 1)[0]
    subject = scene.subjects[0]
    without = replace(scene, subjects=(replace(subject, masks=None),))
    with pytest.raises(InputError, match="its background is removed by masks, and it has none; give masks"):
        on_white(without, GivenMasks())
    smaller = replace(scene, subjects=(replace(subject, masks=subject.masks[:, 1:]),))
    with pytest.raises(InputError, match=r"masks of subject .* of 1 × \d+ × \d+: its images are"):
        on_white(smaller, GivenMasks())


@pytest.mark.parametrize(("filled", "said"), [(False, "no foreground"), (True, "nothing but foreground")])
def test_references_without_a_subject(filled, said):
    scene = storybook_scenes("train", 1)[0]
    subject = replace(scene.subjects[0], masks=np.full_like(scene.subjects[0].masks, filled))
    assert unfit(on_white(replace(scene, subjects=(subject,)), GivenMasks())) == f"{said} in a reference"


def test_all_pairs_dropped(tmp_path):
    with pytest.raises(InputError, match=r"2 pairs: all are dropped: 2 for 'another subject'; lower the threshold"):
        pipeline.run(config(threshold=5, training_set={**SET, "size": 2}), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"background": "rmbg"}, "unknown refine.background 'rmbg'"),
        ({"annotator": "rater"}, "unknown refine.annotator 'rater'.*did you mean 'raters'"),
        ({"threshold": 6.0}, r"refine.threshold 6.0: it is a rating from 0 to 5"),
        ({"training_set": None}, "it is trained on what an earlier entry left, or on a training set"),
        ({"raters": {"seeds": ()}}, r"seeds \(\)"),
        ({"background": "isnet", "isnet": {"size": "RMBG-2"}}, "unknown size of IS-Net 'RMBG-2'"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(InputError, match=message):
        pipeline.check(pipeline.completed(config(**changes)))


def own_pairs(folder, opaque=None, **refine):
    """A config for three pairs of people's own; the subjects are cut out where `opaque` says how much of each is."""
    lines = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        photo = Image.fromarray(pixels)
        if opaque:
            photo.putalpha(Image.fromarray(np.uint8(255) * (np.arange(1600).reshape(40, 40) < 40 * opaque[number])))
        photo.save(folder / f"cut{number}.png")
        subjects = [{"class_word": "dog", "images": [f"cut{number}.png"]}]
        lines.append({"id": f"{number}", "prompt": "a dog", "picture": f"{number}.png", "subjects": subjects})
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = config(**{"training_set": None, "source": "collect", "annotator": "", "background": "", **refine})
    with found.unlocked():
        found.collect = {"stage": "collect", "pictures": str(folder / "own.jsonl")}
        found.stages = ("collect", "refine", "align")
    return found


@pytest.mark.slow
def test_people_s_own_pairs_without_an_annotator(tmp_path):
    found = own_pairs(tmp_path)
    pipeline.run(found, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "refine" / "kept.json").read_text()) == ["0", "1", "2"]
    (tmp_path / "opaque").mkdir()
    opaque = own_pairs(tmp_path / "opaque", opaque=(20, 40, 40))
    opaque.stages = ("collect", "refine")
    pipeline.run(opaque, tmp_path / "whole")
    kept = json.loads((tmp_path / "whole" / "refine" / "kept.json").read_text())
    assert kept == ["0", "1", "2"], "where nothing is removed, pictures that say that they are opaque are as others"
    found.refine.background = "given"
    message = r"refine.background 'given': subject 'dog' of '0' comes without a mask; cut it out .*or take 'isnet'"
    with pytest.raises(InputError, match=message):
        pipeline.check(pipeline.completed(found))
    found.refine.update(background="", annotator="raters")
    with pytest.raises(InputError, match="annotator 'raters': it knows Storybook's own scenes only; take 'server'"):
        pipeline.check(pipeline.completed(found))


def test_people_s_own_subjects_cut_out(tmp_path):
    """Half of the first is there, nothing of the second, all of the third."""
    found = own_pairs(tmp_path, opaque=(20, 0, 40), background="given")
    found.stages = ("collect", "refine")
    pipeline.run(found, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "refine" / "kept.json").read_text()) == ["0"]
    rejects = [json.loads(line) for line in (tmp_path / "run" / "refine" / "rejects.jsonl").read_text().splitlines()]
    assert [(each["id"], each["reason"]) for each in rejects] == [
        ("1", "no foreground in a reference"),
        ("2", "nothing but foreground in a reference"),
    ]
    (subject,) = open_records(tmp_path / "run" / "refine" / "scenes", Scene)[0].subjects
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    np.testing.assert_array_equal(subject.images[0][:20], pixels[:20])
    assert (subject.images[0][20:] == 255).all() and not subject.masks[0][20:].any()


def test_people_s_own_scenes_are_shown_as_trained_ones_were(tmp_path):
    """The evaluation asks for masks where the training had them, before anything is drawn."""
    found = own_pairs(tmp_path, opaque=(20, 20, 20), background="given")
    scenes = [{"id": "1", "prompt": "a dog", "subjects": [{"class_word": "dog", "images": ["0.png"]}]}]
    (tmp_path / "scenes.jsonl").write_text("\n".join(map(json.dumps, [*scenes, {**scenes[0], "id": "2"}])))
    found.stages = ("collect", "refine", "align", "evaluate")
    found.evaluate.update(source="collect", reward="picture_statistics")
    pipeline.check(pipeline.completed(found))
    found.evaluate.source, found.scenes = "", str(tmp_path / "scenes.jsonl")
    with pytest.raises(InputError, match=r"refine.background 'given': subject 'dog' of '1' comes without a mask"):
        pipeline.check(pipeline.completed(found))


def test_each_pair_is_read_once_and_a_stopped_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(refine, "_CHUNK", 2)
    section = {"stage": "refine", "training_set": {**SET, "size": 5}, "background": "given"}
    found, drawn, genuine = {"refine": section}, [], TrainingSet.batch
    monkeypatch.setattr(TrainingSet, "batch", lambda self, rows: drawn.extend(rows) or genuine(self, rows))
    monkeypatch.setattr(refine, "unfit", lambda scene: "no foreground in a reference" * scene.id.endswith("1"))
    looks = iter([False, True])
    stop = type("StopAfter", (), {"requested": property(lambda self: next(looks))})()
    with pytest.raises(Stopped):
        one_entry.run(found, "refine", tmp_path, stop)
    assert drawn == [0, 1]
    monkeypatch.setattr(kinds, "_decode_subjects", lambda columns: pytest.fail("a scene is decoded"))
    numbers = {"pairs": 5, "kept": 4, "dropped/no_foreground_in_a_reference": 1}
    assert one_entry.run(found, "refine", tmp_path) == numbers and drawn == [0, 1, 2, 3, 4]
    assert one_entry.run(found, "refine", tmp_path) == numbers and drawn == [0, 1, 2, 3, 4]
    for name, kind in {"scenes": Scene, "candidates": Candidate}.items():
        ids = open_records(tmp_path / "refine" / name, kind).columns("id")["id"]
        assert ids == [f"train-3-{row:06d}" for row in range(5)]


def test_annotations_of_a_stopped_run_are_kept(tmp_path, monkeypatch):
    """Answers are paid for: those that are there are not asked for again."""
    monkeypatch.setattr(refine, "_CHUNK", 2)
    asked, genuine = [], RaterAnnotators.same_subject

    def counted(self, each):
        asked.append(len(each))
        return genuine(self, each)

    monkeypatch.setattr(RaterAnnotators, "same_subject", counted)
    found = {"refine": {"stage": "refine", "training_set": {**SET, "size": 6}, "annotator": "raters", "threshold": 0}}
    looks = iter([False] * 5 + [True])  # three chunks of pairs, two of annotations
    stop = type("StopAfter", (), {"requested": property(lambda self: next(looks))})()
    with pytest.raises(Stopped):
        one_entry.run(found, "refine", tmp_path, stop)
    assert asked == [2, 2]
    assert one_entry.run(found, "refine", tmp_path)["kept"] == 6 and asked == [2, 2, 2]
    assert not (tmp_path / "refine" / "chunks").exists()


@pytest.mark.slow
def test_an_arm_is_judged_by_the_scenes_as_they_are(tmp_path, tiny_weights):
    """It is shown subjects on white; what is asked of its pictures is what is asked of the baseline's."""
    found = own_pairs(tmp_path, opaque=(20, 20, 20), background="given")
    found.generator.update(preset="tiny", weights=str(tiny_weights))
    found.stages = ("collect", "refine", "align", "evaluate")
    subject = {"encoder": "dinov2", "weights": "", "size": "storybook", "side": 40, "max_subjects": 1}
    with found.unlocked():
        found.evaluate.update(source="collect", reward="identity", identity=subject, trained=("align",), best_of=0)
        found.evaluate.update(guidance_scales=(), controls=(), compare=())
    pipeline.run(found, tmp_path / "run")
    results = json.loads((tmp_path / "run" / "evaluate" / "results.json").read_text())
    scenes = open_records(tmp_path / "run" / "evaluate" / "scenes", Scene)
    drawn = open_records(tmp_path / "run" / "evaluate" / "align" / "candidates", Candidate)
    scenes = [scene for scene in scenes for _ in range(len(drawn) // len(scenes))]
    reward = open_reward(one_entry.entry(found, "evaluate", tmp_path / "run"))
    scores = reward.score_images([each.image for each in drawn], scenes, [each.id for each in drawn])
    expected = np.float64(scores).reshape(len(results["scenes"]), -1).mean(1)
    np.testing.assert_allclose(np.array(results["arms"]["align"])[:, 0], expected, atol=1e-5)


# A model behind a server


def test_what_a_server_says():
    answer = {"attributes": ["red hat", "green coat"], "differences": ["blue coat"], "rating": 2}
    assert _read(answer) == (2.0, "Looked for: red hat, green coat. Different: blue coat.")
    for wrong in (None, {}, {**answer, "rating": 6}, {**answer, "rating": True}, {**answer, "more": 1}):
        with pytest.raises(UnfitError, match="a rating, an integer from 0 to 5"):
            _read(wrong)


@pytest.fixture
def asked(monkeypatch):
    """The questions that a model behind a server was asked; it is sure of every second one."""
    asked = []

    def ask(self, request, about, read):
        asked.append(about)
        said = {"attributes": ["hat"], "differences": [], "rating": 5 - len(asked) % 2 * 3}
        return said, read(said)

    monkeypatch.setattr(ServerAnnotator, "_ask", ask)
    return asked


SERVER = {"url": "http://localhost:8000/v1", "model": "vlm"}


def test_no_answer_is_paid_for_twice(tmp_path, asked):
    """Neither one before the budget ran out in the middle of a chunk, nor for another threshold."""
    found = {"stage": "refine", "training_set": {**SET, "size": 6}, "annotator": "server", "threshold": 5}
    found = {"refine": {**found, "server": {**SERVER, "budget": 4, "at_once": 1}}}
    with pytest.raises(InputError, match=r"budget 4: .* run it again to go on, or raise it"):
        one_entry.run(found, "refine", tmp_path)
    assert len(asked) == 4
    numbers = one_entry.run(found, "refine", tmp_path)
    assert len(asked) == len(set(asked)) == 6 and numbers["kept"] == 3
    shutil.rmtree(tmp_path / "refine")
    found["refine"]["threshold"] = 2
    assert one_entry.run(found, "refine", tmp_path)["kept"] == 6 and len(asked) == 6


def test_how_a_server_is_asked_changes_no_result(tmp_path, asked):
    found = ConfigDict({"scenes": "", "stages": ("refine",), "seed": 0, "report": False, "mesh": {"data": 1}})
    found.refine = {"stage": "refine", "training_set": {**SET, "size": 6}, "annotator": "server", "threshold": 0.0}
    found.refine.server = {**SERVER, "budget": 4, "at_once": 1, "tries": 6}
    with pytest.raises(InputError, match="budget 4"):
        pipeline.run(found, tmp_path)
    found.refine.server.update(budget=100, at_once=2, tries=2)
    pipeline.run(found, tmp_path)
    assert len(asked) == 6
    found.refine.server.model = "another"
    with pytest.raises(InputError, match=r"refine.server.model \('vlm' there, 'another' here\)"):
        pipeline.run(found, tmp_path)


def test_a_budget_that_runs_out(asked):
    annotator = ServerAnnotator(**SERVER, budget=2, at_once=1)
    scene = storybook_scenes("train", 1)[0]
    examples = [Example(replace(scene, id=str(number)), scene.subjects[0].images[0]) for number in range(3)]
    assert [each.score for each in annotator.same_subject(examples[:2])] == [2.0, 5.0]
    with pytest.raises(InputError, match="budget 2: so many questions are asked in a run, and all are; run it again"):
        annotator.same_subject(examples[2:])


@pytest.mark.parametrize("grey", [255, 128])
def test_nothing_is_found_in_an_empty_picture(grey):
    scene = storybook_scenes("train", 1, characters=1)[0]
    by = FoundMasks("", "storybook")
    empty = replace(scene.subjects[0], images=np.full((1, 24, 24, 3), grey, np.uint8))
    assert unfit(on_white(replace(scene, subjects=(empty,)), by)) == "no foreground in a reference"
    assert unfit(on_white(scene, by)) == ""


def test_found_masks_need_weights(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        FoundMasks(str(tmp_path / "none")).masks(storybook_scenes("train", 1)[0].subjects[0])
    assert Tables().annotators == {}
