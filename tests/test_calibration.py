"""Scores are read in deviations of a stated set of pictures, whatever is screened."""

import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from one_entry import check, entry

from narrative_jax import pipeline
from narrative_jax.core.config import load, override
from narrative_jax.core.errors import InputError
from narrative_jax.core.files import write_json
from narrative_jax.core.records import Preference, Score
from narrative_jax.data.datasets import open_records, write_records
from narrative_jax.runs.scores import standard_scores

CONFIG = Path(__file__).parents[1] / "configs" / "adpo.py"


def config(**changes):
    raters = {"stage": "score", "reward": "raters", "raters": {"seeds": (0, 1)}}
    entries = {
        "scenes": "",
        "generate": {"stage": "generate"},
        "reference": {"stage": "generate"},
        "calibrate": {**raters, "source": "reference"},
        "score": {**raters, "source": "generate", "calibration": "calibrate"},
    }
    return ConfigDict({name: section | changes.get(name, {}) if section else "" for name, section in entries.items()})


def test_standard_scores_are_in_deviations_of_the_named_set(tmp_path):
    scores = np.float32([[2, 3, 4], [4, 3, 2], [3, 3, 3]])
    write_records(tmp_path / "score" / "scores", [Score(str(i), "raters", tuple(row)) for i, row in enumerate(scores)])
    for name, mean in (("score", 9.0), ("calibrate", 1.0)):
        (tmp_path / name).mkdir(exist_ok=True)
        saved = {"reward": "raters", "aspects": "abc", "mean": [mean] * 3, "std": [2.0] * 3, "on": name}
        write_json(tmp_path / name / "calibration.json", saved)
    found = standard_scores(entry(config(), "score", tmp_path), "score", ["2", "0", "1"])
    np.testing.assert_allclose(found, (scores[[2, 0, 1]] - 1) / 2)
    alone = entry(config(score={"calibration": ""}), "score", tmp_path)
    np.testing.assert_allclose(standard_scores(alone, "score", ["0"]), (scores[:1] - 9) / 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"calibrate": {"raters": {"seeds": (0, 2)}}}, "'calibrate': its reward or an option of it is another; give"),
        ({"calibrate": {"reward": "oracle"}}, "'calibrate': its reward or an option of it is another; give calibrate"),
        ({"score": {"calibration": "score"}}, "unknown score entry to calibrate by 'score'"),
        ({"score": {"calibration": "reference"}}, "unknown score entry to calibrate by 'reference'"),
        ({"calibrate": {"calibration": "score"}}, "'calibrate': it is calibrated by another entry itself; name that"),
    ],
)
def test_a_calibration_of_something_else_is_refused(changes, said):
    check(config(), "score")
    with pytest.raises(InputError, match=said):
        check(config(**changes), "score")


CHANGES = [
    ("", "raters.seeds", "(5,)"),
    (":nireward", "batch_size", "32"),
    (":tiny", "reward", "oracle"),
    (":proxies", "identity.encoder", "dinov2"),
]


@pytest.mark.parametrize(("variant", "key", "text"), CHANGES)
def test_the_reward_is_one(variant, key, text):
    """What a command line changes in the score entry it changes in what calibrates it."""
    changed = load(f"{CONFIG}{variant}")
    before = pipeline.completed(changed).calibrate.to_dict()
    override(changed, f"score.{key}", text)
    completed = pipeline.completed(changed)
    pipeline.check(completed)
    own = {"stage", "source", "calibration"}
    rewards = [{k: v for k, v in completed[name].to_dict().items() if k not in own} for name in ("score", "calibrate")]
    assert rewards[0] == rewards[1] and completed.calibrate.to_dict() != before
    assert completed.reference.scene_seed != completed.generate.scene_seed


def test_scenes_of_ones_own_are_calibrated_by_themselves():
    """There is no second set of them; the config that is written down says so."""
    own = load(str(CONFIG))
    own.scenes = "mine.jsonl"
    completed = pipeline.completed(own)
    assert completed.stages == ("generate", "score", "screen", "align", "evaluate")
    assert completed.score.calibration == "" and own.score.calibration == "calibrate"


@pytest.mark.slow
def test_a_threshold_means_the_same_whatever_is_screened(tmp_path, tiny_weights):
    """Other candidates, other pairs: the gap of a pair that is in both is the same."""
    changed = load(f"{CONFIG}:tiny")
    changed.stages = changed.stages[:5]
    changed.generator.weights = str(tiny_weights)
    changed.score.reward = "picture_statistics"
    changed.report = False
    gaps = {}
    for count in (3, 6):
        changed.generate.scenes = count
        pipeline.run(changed, tmp_path / str(count))
        saved = json.loads((tmp_path / str(count) / "calibrate" / "calibration.json").read_text())
        assert saved["on"] == "reference"
        gaps[count] = preferences(tmp_path / str(count))
    assert gaps[3] and gaps[3].items() <= gaps[6].items()


def preferences(workdir):
    found = open_records(workdir / "screen" / "preferences", Preference)
    return {(each.chosen_id, each.rejected_id): each.gap for each in found}
