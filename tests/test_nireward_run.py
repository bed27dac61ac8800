"""configs/nireward.py whole, at its smallest."""

import json
from pathlib import Path

import numpy as np
import one_entry
import pytest

from narrative_jax import launch
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Annotation, Candidate, Preference, Scene, Score
from narrative_jax.data.datasets import open_records
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.rewards.base import ASPECTS, WEIGHTS
from narrative_jax.rewards.new_nireward import NewNIReward
from narrative_jax.rewards.nireward_files import ABOUT, NIRewardOptions

CONFIG = Path(__file__).parents[1] / "configs" / "nireward.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_weights):
    workdir = tmp_path_factory.mktemp("runs") / "nireward"
    flags = [f"--config={CONFIG}:tiny", f"--config.generator.weights={tiny_weights}", f"--workdir={workdir}"]
    assert launch.main(flags) == 0
    return workdir


@pytest.mark.slow
def test_each_entry_is_done(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["drawn/candidates"] == 16 and summary["annotated/annotations"] == 4 * 3 * 3
    assert summary["annotated/preferences"] == 4 * 3 * 3 and summary["nireward/step"] == 2
    assert summary["compile/seeing"] == summary["compile/nireward"] == 1
    described = [json.loads(line) for line in (run / "seeing" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["description"] > 0 and row["comparison"] > 0 and 0 <= row["tokens_right"] <= 1 for row in described)
    for pictures, labels in {"bench": 4 * 6, "kept": 4}.items():
        assert summary[f"{pictures}_labels/preferences"] == 3 * labels
        for name in ("nireward", "clip", "aesthetic", "identity", "raters", "oracle"):
            key = f"{pictures}_accuracy/{pictures}_by_{name}/visual_quality"
            assert 0 <= summary[f"{key}_low"] <= summary[key] <= summary[f"{key}_high"] <= 1
    rows = [json.loads(line) for line in (run / "nireward" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["critique"] > 0 and row["ranking"] > 0 and row["grad_norm"] > 0 for row in rows)


@pytest.mark.slow
def test_what_it_learned_from_is_in_one_place(run):
    pictures = open_records(run / "drawn" / "candidates", Candidate).columns("id", "generator")
    assert set(pictures["generator"]) == {"as_it_is", "copying", "hurried", "deaf"}
    said = open_records(run / "annotated" / "annotations", Annotation).columns("candidate_id", "aspect")
    assert set(said["candidate_id"]) < set(pictures["id"]) and set(said["aspect"]) == set(ASPECTS)
    assert {each.aspect for each in open_records(run / "annotated" / "preferences", Preference)} == set(ASPECTS)


@pytest.mark.slow
def test_what_was_trained_scores_pictures(run):
    """From its files as in the run that trained it, with critiques of its own."""
    scene = open_records(run / "drawn" / "scenes", Scene)[0]
    pictures = [each for each in open_records(run / "drawn" / "candidates", Candidate) if each.scene_id == scene.id]
    config = json.loads((run / "config.json").read_text())
    scores = {}
    for name, options in {
        "from_files": {"reward": "nireward", "nireward": {"weights": str(run / "nireward" / WEIGHTS)}},
        "from_run": {"reward": "trained", "reward_from": "nireward"},
    }.items():
        config[name] = {"stage": "score", "source": "drawn", **options}
        one_entry.run(config, name, run)
        scores[name] = [each.scores for each in open_records(run / name / "scores", Score)]
    assert np.shape(scores["from_files"]) == (16, 3) and len(pictures) == 4
    np.testing.assert_array_equal(scores["from_files"], scores["from_run"])
    reward = NIRewardOptions(run / "nireward" / WEIGHTS).build()
    context, images = reward.encode([scene] * 4), np.stack([each.image for each in pictures])
    (words, *_) = reward.prompts.words(
        reward.write_critiques(reward.params, reward.fit(images / 127.5 - 1, context), context)
    )
    assert len(words) == 3


@pytest.mark.slow
def test_it_begins_as_what_came_before_left_it(run):
    before, after = (NIRewardOptions(run / name / WEIGHTS).build().params for name in ("seeing", "nireward"))
    fresh = NewNIReward().untrained(0)[1]()
    name = "vlm.blocks.query.kernel" if "vlm.blocks.query.kernel" in fresh else "vlm.blocks.*.query.kernel"
    assert abs(before[name] - after[name]).mean() < 0.1 * abs(np.asarray(fresh[name])).mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nireward.after": "proxies"}, "unknown entry that nireward comes after 'proxies': .*seeing"),
        (
            {"nireward.source": "drawn"},
            "source 'drawn': critique learns from annotations; name an entry that annotates",
        ),
        (
            {"nireward.algorithm": "describing", "nireward.hyper": {}},
            "nireward.training_set: a training set is what is",
        ),
        ({"seeing.source": "annotated"}, "source 'annotated' and a training_set: an entry trains on one of both"),
        ({"seeing.reward": "scalar", "seeing.scalar": {"size": "storybook"}}, "describing trains rewards that write"),
        ({"nireward.nireward": {"size": "2B", "backbone": "there"}}, "tokenizer.json"),
    ],
)
def test_bad_options(changes, message):
    config = load(f"{CONFIG}:tiny")
    with config.unlocked():
        for key, value in changes.items():
            entry, _, name = key.partition(".")
            config[entry][name] = value
    with pytest.raises(InputError, match=message):
        one_entry.check(config, next(iter(changes)).partition(".")[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: NewNIReward(size="2B"),
            "backbone '': a published Qwen2-VL-2B is where it begins; give its folder",
        ),
        (lambda path: NewNIReward(size="3B"), "unknown size '3B'"),
        (lambda path: NewNIReward(str(path)).untrained(0), "tokenizer.json"),
        (
            lambda path: NIRewardOptions(str(path / WEIGHTS)).build(),
            "there is no such file; NIReward is weights.safetensors",
        ),
    ],
)
def test_bad_files(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        make(tmp_path)


def test_files_that_say_something_else(tmp_path):
    (tmp_path / WEIGHTS).touch()
    for about, message in (({"size": "tiny"}, "unknown size in"), ({"size": STORYBOOK, "room": {"side": 40}}, "room")):
        (tmp_path / ABOUT).write_text(json.dumps(about))
        with pytest.raises(InputError, match=message):
            NIRewardOptions(str(tmp_path / WEIGHTS)).build()
