"""The score stage: scores and calibration on disk, whatever interrupts it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import one_entry
import pytest
from ml_collections import ConfigDict

from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.core.records import Annotation, Candidate, Score
from narrative_jax.data.datasets import finished_chunks, open_records, write_records
from narrative_jax.rewards.raters import Raters
from narrative_jax.stages import score
from narrative_jax.storybook import drawings, render, scenes

PER_SCENE = 2


def make_config(**entry):
    section = {"stage": "score", "source": "generate", "reward": "raters", **entry}
    return ConfigDict({"scenes": "", "generate": {"stage": "generate"}, "score": section})


def run(workdir, stop=None, **entry):
    return one_entry.run(make_config(**entry), "score", workdir, stop)


@pytest.fixture(scope="module")
def drawn():
    """Six scenes, and two candidates of each: a true picture and a noisy one."""
    asked = scenes("tune", range(6))
    pictures = render(drawings("tune", range(6))[1])
    noisy = np.clip(pictures + np.random.default_rng(0).normal(0, 0.2, pictures.shape), -1, 1)
    images = np.uint8(np.round((np.stack([pictures, noisy], 1) + 1) * 127.5))
    candidates = [
        Candidate(f"{scene.id}/{i}", scene.id, images[row, i], i, "test")
        for row, scene in enumerate(asked)
        for i in range(PER_SCENE)
    ]
    return asked, candidates


@pytest.fixture
def workdir(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(score, "_CHUNK", 5)  # three chunks, the last one of two
    write_records(tmp_path / "generate" / "scenes", drawn[0])
    write_records(tmp_path / "generate" / "candidates", drawn[1])
    return tmp_path


class StopAfter:
    """A stop flag that is set once it was looked at so often."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def requested(self):
        self.looks -= 1
        return self.looks < 0


def results(workdir):
    records = list(open_records(workdir / "score" / "scores", Score))
    return records, json.loads((workdir / "score" / "calibration.json").read_text())


def test_each_candidate_is_scored_by_its_own_scene(workdir, drawn):
    numbers = run(workdir)
    asked, candidates = drawn
    records, calibration = results(workdir)
    ids = [candidate.id for candidate in candidates]
    expected = Raters().score_images(
        np.stack([candidate.image for candidate in candidates]), [s for s in asked for _ in range(PER_SCENE)], ids
    )
    assert [record.candidate_id for record in records] == ids and {record.reward for record in records} == {"raters"}
    scores = np.array([record.scores for record in records])
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert calibration["reward"] == "raters" and calibration["aspects"] == list(Raters.aspects)
    np.testing.assert_allclose(calibration["mean"], expected.mean(0), rtol=1e-5)
    np.testing.assert_allclose(calibration["std"], expected.std(0), rtol=1e-4)
    assert numbers["count"] == 12 and numbers["mean/visual_quality"] == calibration["mean"][2]
    assert sorted(path.name for path in (workdir / "score").iterdir()) == ["calibration.json", "scores"]


def test_options_of_a_reward_stand_under_its_name(workdir, drawn):
    run(workdir, raters={"seeds": (5,)})
    asked, candidates = drawn
    record = results(workdir)[0][0]
    expected = Raters((5,)).score_images(candidates[0].image[None], asked[:1], [candidates[0].id])
    np.testing.assert_allclose(record.scores, expected[0], atol=1e-5)


def test_a_stopped_run_goes_on_where_it_was(workdir, monkeypatch):
    run(workdir)
    undisturbed = results(workdir)
    shutil.rmtree(workdir / "score")

    with pytest.raises(Stopped):
        run(workdir, StopAfter(2))
    assert finished_chunks(workdir / "score" / "chunks" / "scores") == [0, 1]
    scored = []
    genuine = Raters.score_images
    monkeypatch.setattr(Raters, "score_images", lambda *a: scored.extend(a[3]) or genuine(*a))
    run(workdir)
    assert len(scored) == 2  # the last chunk alone
    assert results(workdir) == undisturbed


def test_what_a_reward_writes_is_left_beside_its_scores(workdir, monkeypatch):
    """Killed between a chunk of scores and its words, that chunk is made again."""
    genuine, asked = Raters.score_images, []

    def criticise(self, images, scenes, ids):
        asked.extend(ids)
        return [[f"{id}: {aspect}" for aspect in self.aspects] for id in ids], genuine(self, images, scenes, ids)

    monkeypatch.setattr(Raters, "writes", True, raising=False)
    monkeypatch.setattr(Raters, "criticise_images", criticise, raising=False)
    with pytest.raises(Stopped):
        run(workdir, StopAfter(2))
    chunks = workdir / "score" / "chunks"
    assert finished_chunks(chunks / "scores") == finished_chunks(chunks / "annotations") == [0, 1]
    shutil.rmtree(chunks / "annotations" / "chunk-000001")
    asked.clear()
    run(workdir)
    scores, _ = results(workdir)
    assert asked == [each.candidate_id for each in scores[5:]] and len(scores) == 12
    said = list(open_records(workdir / "score" / "annotations", Annotation))
    assert [each.candidate_id for each in said] == [each.candidate_id for each in scores for _ in Raters.aspects]
    assert all(each.critique == f"{each.candidate_id}: {each.aspect}" for each in said)
    assert {(each.score, each.annotator) for each in said} == {(None, "raters")}
    monkeypatch.undo()
    shutil.rmtree(workdir / "score")
    run(workdir)
    assert results(workdir)[0] == scores and not (workdir / "score" / "annotations").exists()


def test_killed_while_tidying_up(workdir, monkeypatch):
    """All is written, a chunk is half removed: nothing is scored again."""
    genuine = shutil.rmtree

    def half(folder, **options):
        if folder.parent.name != "chunks":
            return genuine(folder, **options)
        genuine(folder / "chunk-000000")
        raise KeyboardInterrupt

    numbers = run(workdir)
    undisturbed = results(workdir)
    shutil.rmtree(workdir / "score")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", half)
        run(workdir)
    assert finished_chunks(workdir / "score" / "chunks" / "scores") == [1, 2]
    monkeypatch.setattr(Raters, "score_images", None)
    assert run(workdir) == numbers and results(workdir) == undisturbed
    assert not (workdir / "score" / "chunks").exists()


def test_scenes_of_ones_own_need_another_reward(tmp_path, drawn):
    asked, candidates = drawn
    write_records(tmp_path / "generate" / "scenes", [replace(scene, facts=None) for scene in asked])
    write_records(tmp_path / "generate" / "candidates", candidates)
    with pytest.raises(InputError, match="use the reward 'picture_statistics'"):
        run(tmp_path)
    numbers = run(tmp_path, reward="picture_statistics")
    records, calibration = results(tmp_path)
    assert list(numbers) == ["count", "mean/sharpness", "mean/exposure", "mean/colour_agreement"]
    assert calibration["aspects"] == ["sharpness", "exposure", "colour_agreement"]
    assert len(records) == 12 and min(calibration["std"]) > 0


def test_a_score_that_never_varies_is_not_blown_up(tmp_path, drawn):
    asked, candidates = drawn
    write_records(tmp_path / "generate" / "scenes", asked[:1])
    write_records(tmp_path / "generate" / "candidates", candidates[:1])
    run(tmp_path)
    assert results(tmp_path)[1]["std"] == [1e-3] * 3


def test_a_candidate_without_its_scene(tmp_path, drawn):
    asked, candidates = drawn
    write_records(tmp_path / "generate" / "scenes", asked[1:])
    write_records(tmp_path / "generate" / "candidates", candidates)
    with pytest.raises(InputError, match=f"scene '{asked[0].id}'.*generate again"):
        run(tmp_path)


def test_check():
    one_entry.check(make_config(), "score")
    one_entry.check(make_config(raters={"seeds": (1, 2)}), "score")
    with pytest.raises(InputError, match=r"unknown reward 'ratters'.*did you mean 'raters'"):
        one_entry.check(make_config(reward="ratters"), "score")
    with pytest.raises(InputError, match=r"unknown option of score.raters 'seed'.*did you mean 'seeds'"):
        one_entry.check(make_config(raters={"seed": 1}), "score")
    with pytest.raises(InputError, match="each rater has a seed"):
        one_entry.check(make_config(raters={"seeds": ()}), "score")


def test_check_of_scenes_of_ones_own():
    config = make_config()
    config.scenes = "mine.jsonl"
    with pytest.raises(InputError, match=r"reward 'raters'.*mine.jsonl.*'picture_statistics'"):
        one_entry.check(config, "score")
    config.score.reward = "picture_statistics"
    one_entry.check(config, "score")
