"""A user's prompts and photos through every stage to the report: real photos, DreamBench's two-subject prompts."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from narrative_jax import launch
from narrative_jax.core.records import Candidate, Scene, Score
from narrative_jax.data.datasets import open_records
from narrative_jax.rewards.picture_statistics import PictureStatistics

CONFIG = Path(__file__).parents[1] / "configs" / "adpo.py"
TURNED = Image.Transpose.ROTATE_90  # what a camera stores that says "turn me clockwise", which is orientation 6


@pytest.fixture(scope="module")
def own(test_data, tmp_path_factory):
    """A folder with scenes.jsonl, three scenes of two subjects, and their photos: of six sizes, two on their sides."""
    folder = tmp_path_factory.mktemp("own")
    lines = (test_data / "dreambooth" / "prompts_and_classes.txt").read_text().splitlines()
    classes = dict(row for row in csv.reader(lines) if len(row) == 2)
    prompts = json.loads((test_data / "dreambench" / "dreambench_multiip.json").read_text())
    fitting = []
    for number, entry in enumerate(prompts):
        photos = [test_data / "dreambooth" / Path(*Path(path).parts[-2:]) for path in entry["image_paths"]]
        if all(photo.is_file() for photo in photos):
            fitting.append((f"dreambench-{number}", entry["prompt"], photos))
    scenes = []
    for name, prompt, photos in (fitting[0], fitting[1], fitting[-1]):
        subjects = []
        for photo in photos:
            file = f"{name}-{photo.parent.name}.jpg"
            _copy(photo, folder / file, side=512 - 60 * len(list(folder.iterdir())), turned=not scenes)
            subjects.append({"class_word": classes[photo.parent.name], "images": [file]})
        scenes.append({"id": name, "prompt": prompt, "subjects": subjects})
    write(folder / "scenes.jsonl", scenes)
    return folder


def _copy(source, target, side, turned):
    with Image.open(source) as photo:
        photo = photo.convert("RGB")
        photo.thumbnail((side, side))
        exif = photo.getexif()
        if turned:
            photo, exif[0x0112] = photo.transpose(TURNED), 6
        photo.save(target, quality=95, exif=exif)


def write(path, scenes):
    path.write_text("".join(json.dumps(scene) + "\n" for scene in scenes))


def arguments(workdir, scenes, weights, *changes):
    values = (f"scenes={scenes}", f"generator.weights={weights}", *changes)
    return [f"--config={CONFIG}:tiny", f"--workdir={workdir}", *(f"--config.{value}" for value in values)]


def read(path):
    return json.loads(path.read_text())


def test_from_photos_to_the_report(own, tiny_weights, tmp_path, capsys):
    run = tmp_path / "run"
    assert launch.main(arguments(run, own / "scenes.jsonl", tiny_weights)) == 0

    asked = [json.loads(line) for line in (own / "scenes.jsonl").read_text().splitlines()]
    scenes = list(open_records(run / "generate" / "scenes", Scene))
    assert [(scene.id, scene.prompt) for scene in scenes] == [(each["id"], each["prompt"]) for each in asked]
    for scene, each in zip(scenes, asked, strict=True):
        assert [s.class_word for s in scene.subjects] == [s["class_word"] for s in each["subjects"]]
    assert len({subject.images.shape for scene in scenes for subject in scene.subjects}) == 6
    with Image.open(own / asked[0]["subjects"][0]["images"][0]) as stored:
        upright = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(scenes[0].subjects[0].images[0], upright)

    config, summary = read(run / "config.json"), read(run / "summary.json")
    assert config["on_no_pairs"] == "skip"
    assert config["score"]["reward"] == config["evaluate"]["reward"] == "picture_statistics"
    assert {score.reward for score in open_records(run / "score" / "scores", Score)} == {"picture_statistics"}
    assert not [key for key in summary if "gold" in key]
    for aspect in PictureStatistics.aspects:
        values = [summary[f"evaluate/reward/{aspect}/{key}"] for key in ("baseline", "aligned", "diff", "diff_low")]
        assert values[1] - values[0] == pytest.approx(values[2], abs=1e-6) and values[3] <= values[2]
    assert summary["screen/pairs"] > 0 and summary["compile/align"] == 1
    drawn = [list(open_records(run / "evaluate" / arm / "candidates", Candidate)) for arm in ("baseline", "align")]
    assert any((before.image != after.image).any() for before, after in zip(*drawn, strict=True))

    unknown = read(run / "generate" / "notices.json")["unknown_words"]
    assert "backpack" in unknown and "and" not in unknown
    assert f"generate: unknown words: {', '.join(unknown[:10])}" in capsys.readouterr().out
    report = (run / "report.html").read_text()
    assert "backpack" in report and "picture_statistics" in report


@pytest.mark.slow
def test_no_pair_left_and_a_scene_too_many(own, tmp_path, capsys):
    """An untrained generator draws grey: no picture is better than another, and the run still ends with its report."""
    asked = [json.loads(line) for line in (own / "scenes.jsonl").read_text().splitlines()]
    crowd = {**asked[1], "id": "crowd", "subjects": [*asked[1]["subjects"], asked[0]["subjects"][0]]}
    write(own / "crowd.jsonl", [asked[0], crowd, asked[2]])

    run, before = tmp_path / "run", sorted(own.iterdir())
    assert launch.main(arguments(run, own / "crowd.jsonl", "random")) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and "too many subjects in crowd: the generator takes 2 subjects" in err
    assert not run.exists() and sorted(own.iterdir()) == before

    assert launch.main(arguments(run, own / "crowd.jsonl", "random", "max_subjects_policy=drop")) == 0
    out = capsys.readouterr().out
    assert "generate: dropped scenes: crowd (1 in all)" in out
    assert "align: nothing to train on, screening left no pair" in out
    assert [scene.id for scene in open_records(run / "evaluate" / "scenes", Scene)] == [
        asked[0]["id"],
        asked[2]["id"],
    ]
    summary = read(run / "summary.json")
    assert summary["screen/pairs"] == 0 and summary["generate/dropped_scenes"] == 1
    assert summary["evaluate/reward/exposure/baseline"] > 0 and "evaluate/reward/exposure/aligned" not in summary
    report = (run / "report.html").read_text()
    assert "crowd" in report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("score.reward=raters", "reward 'raters': it judges Storybook's own scenes only, not"),
        ("evaluate.reward=oracle", "reward 'oracle': it judges Storybook's own scenes only, not"),
        ("max_subjects_policy=dorp", "unknown max_subjects_policy 'dorp': known are stop, drop; did you mean 'drop'?"),
        ("scenes=nowhere.jsonl", "nowhere.jsonl: it cannot be read (No such file or directory"),
        ("scenes=one.jsonl", "1 scene of one.jsonl: 2 or more are needed; give more"),
        ("evaluate.scenes=1", "1 scene of scenes.jsonl: 2 or more are needed; give more"),
        ("scenes=broken.jsonl", "broken.jsonl:2: image 'text.jpg': it is no readable picture"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(own, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(own)
    Path("text.jpg").write_text("no picture")
    first = json.loads(Path("scenes.jsonl").read_text().splitlines()[0])
    broken = {**first, "id": "2", "subjects": [{"class_word": "toy", "images": ["text.jpg"]}]}
    write(Path("broken.jsonl"), [first, broken])
    write(Path("one.jsonl"), [first])
    assert launch.main(arguments(tmp_path / "run", "scenes.jsonl", "random", change)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and message in err
    assert not list(tmp_path.iterdir())
