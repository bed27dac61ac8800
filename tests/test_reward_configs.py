"""configs/encoders.py and configs/reward.py whole, at their smallest, the second on what the first trained.

The networks have few weights (see small_encoders.py), but for the generator: gold tells its pictures apart.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from one_entry import check
from PIL import Image
from small_encoders import IRESNET, small_storybook
from test_train_stage import StopAfter, numbers

from narrative_jax import launch, pipeline
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.core.images import to_float
from narrative_jax.core.records import Candidate, Preference, Scene, Score
from narrative_jax.data.datasets import open_records
from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.id_encoder import IRESNET_NAMES, IResNet
from narrative_jax.models.network import abstract
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.rewards.base import ASPECTS
from narrative_jax.rewards.scalar_files import load_scalar
from narrative_jax.runs.directory import read_config

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).parents[1] / "configs"
JUDGES = ("by_raters", "by_clip", "by_identity", "by_subject", "by_aesthetic", "by_ensemble", "by_scalar")


@pytest.fixture(scope="module", autouse=True)
def small():
    """Small networks."""
    with small_storybook():
        yield


@pytest.fixture(scope="module")
def encoders(small, tmp_path_factory):
    """The directory of a finished run of configs/encoders.py:tiny."""
    workdir = tmp_path_factory.mktemp("runs") / "encoders"
    assert launch.main([f"--config={CONFIGS / 'encoders.py'}:tiny", f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def reward_flags(encoders):
    """A command for configs/reward.py on those encoders, with one step more, so that it can be stopped between."""
    options = {
        "scalar.total_steps": 3,
        "scalar.scalar.clip": encoders / "clip" / "weights.safetensors",
        "scalar.scalar.subject": encoders / "iresnet" / "weights.safetensors",
        "aesthetic.aesthetic.clip": encoders / "clip" / "weights.safetensors",
        "by_clip.clip_cosine.weights": encoders / "clip" / "weights.safetensors",
        "by_identity.identity.weights": encoders / "iresnet" / "weights.safetensors",
        "by_subject.identity.weights": encoders / "dinov2" / "weights.safetensors",
    }
    flags = [f"--config.{key}={value}" for key, value in options.items()]
    return [f"--config={CONFIGS / 'reward.py'}:tiny", *flags]


@pytest.fixture(scope="module")
def rewards(reward_flags, tmp_path_factory):
    """The directory of a finished run of configs/reward.py:tiny."""
    workdir = tmp_path_factory.mktemp("runs") / "rewards"
    assert launch.main([*reward_flags, f"--workdir={workdir}"]) == 0
    return workdir


def summary(workdir):
    return json.loads((workdir / "summary.json").read_text())


def done(workdir):
    """The entries that are finished, and those that the config lists."""
    return {path.parent.name for path in workdir.glob("*/manifest.json")}, set(read_config(workdir).stages)


def records(folder, kind):
    return list(open_records(folder, kind))


# Encoders


def test_every_encoder_is_trained_in_one_compilation(encoders):
    finished, listed = done(encoders)
    trained = {"clip_first", "clip", "dinov2", "iresnet_first", "iresnet", "isnet"}
    assert finished == listed == {"drawn", "retrieve", *trained}
    found = summary(encoders)
    for name in trained:
        assert found[f"compile/{name}"] == 1
        assert [line["step"] for line in numbers(encoders / name)] == [1, 2]
        assert all(line["grad_norm"] > 0 for line in numbers(encoders / name))
        assert (encoders / name / "weights.safetensors").exists()


def test_retrieval_is_told_for_both_halves(encoders):
    found = summary(encoders)
    assert found["retrieve/chance"] == 1 / 8
    for name in ("clip", "dinov2", "iresnet"):
        for half in ("first", "second"):
            low, share, high = (found[f"retrieve/{name}/{half}{end}"] for end in ("_low", "", "_high"))
            assert 0 <= low <= share <= high <= 1 and share * 8 == int(share * 8)


def test_the_statistics_of_batch_norms_are_saved_as_they_began(encoders):
    shapes = abstract(lambda: IResNet(IRESNET, rngs=nnx.Rngs(0)))[1]
    saved = load_weights(encoders / "iresnet" / "weights.safetensors", shapes, IRESNET_NAMES)
    began = {".mean": 0, ".variance": 1}
    for name, value in saved.items():
        for end, start in began.items():
            assert not name.endswith(end) or (value == start).all()
    assert any((value != 0).any() for name, value in saved.items() if name.endswith(".bias"))


# Rewards


def test_every_stage_of_the_rewards_is_done(rewards):
    finished, listed = done(rewards)
    assert finished == listed and len(listed) == 16
    found = summary(rewards)
    assert found["compile/scalar"] == found["compile/aesthetic"] == 1
    assert [line["step"] for line in numbers(rewards / "scalar")] == [1, 2, 3]
    assert numbers(rewards / "aesthetic")[0]["loss"] == pytest.approx(np.log(2), rel=0.2), "it begins at random"
    assert all(line["grad_norm"] > 0 for name in ("scalar", "aesthetic") for line in numbers(rewards / name))
    assert found["screen/pairs"] == found["screen_quality/pairs"] == 12
    assert {p.aspect for p in records(rewards / "screen" / "preferences", Preference)} == {"overall"}
    assert {p.aspect for p in records(rewards / "screen_quality" / "preferences", Preference)} == {"visual_quality"}


def test_the_accuracy_of_every_judge_on_every_aspect(rewards):
    found = summary(rewards)
    for aspect in ("overall", *ASPECTS):
        pairs = found[f"accuracy/pairs/{aspect}"]
        assert 1 <= pairs <= 6
        for judge in JUDGES:
            low, share, high = (found[f"accuracy/{judge}/{aspect}{end}"] for end in ("_low", "", "_high"))
            assert 0 <= low <= share <= high <= 1 and share * pairs == pytest.approx(round(share * pairs))
    table = (rewards / "accuracy" / "accuracy.md").read_text().splitlines()
    assert len(table) == 2 + len(JUDGES) and all(line.count("|") == 6 for line in table)


def test_an_ensemble_is_the_weighted_sum_of_standardised_scores(rewards):
    """Of those that its entries recorded, by the calibrations that they left."""
    weights = read_config(rewards).by_ensemble.ensemble
    expected = dict.fromkeys((score.candidate_id for score in records(rewards / "by_clip" / "scores", Score)), 0.0)
    for name, weight in weights.items():
        saved = json.loads((rewards / name / "calibration.json").read_text())
        for each in records(rewards / name / "scores", Score):
            expected[each.candidate_id] += weight * (each.scores[0] - saved["mean"][0]) / saved["std"][0]
    found = {each.candidate_id: each.scores for each in records(rewards / "by_ensemble" / "scores", Score)}
    assert len(weights) == 3 and len(expected) == 12 and np.ptp(list(expected.values())) > 0.1
    assert found == {id: (pytest.approx(value, abs=1e-3),) for id, value in expected.items()}


def test_the_trained_reward_is_what_scores_and_is_calibrated(rewards):
    """Its weights are read again here: they give the score entry's scores, and the calibration of its training."""
    reward = load_scalar(rewards / "scalar" / "weights.safetensors")
    assert reward.regions == tuple(read_config(rewards).scalar.scalar.regions)
    assert reward.params["out.kernel"].any()
    images, asked, ids = [], [], []
    for entry in ("generate", "held_out"):
        scenes = {scene.id: scene for scene in records(rewards / entry / "scenes", Scene)}
        candidates = records(rewards / entry / "candidates", Candidate)
        images += [candidate.image for candidate in candidates]
        asked += [scenes[candidate.scene_id] for candidate in candidates]
        ids += [(entry, candidate.id) for candidate in candidates]
    scores = jax.jit(reward.score)(reward.params, to_float(np.stack(images)), reward.encode(asked))[:, 0]
    mine = dict(zip(ids, scores.tolist(), strict=True))
    assert np.ptp(scores) > 1e-4

    held_out = records(rewards / "by_scalar" / "scores", Score)
    assert len(held_out) == 12 and {each.reward for each in held_out} == {"scalar_storybook"}
    for each in held_out:
        assert each.scores[0] == pytest.approx(mine["held_out", each.candidate_id], abs=1e-5)
    preferences = records(rewards / "screen" / "preferences", Preference)
    seen = [mine["generate", getattr(p, side)] for p in preferences for side in ("chosen_id", "rejected_id")]
    saved = json.loads((rewards / "scalar" / "calibration.json").read_text())
    assert (saved["reward"], saved["on"]) == ("scalar_storybook", "screen")
    assert saved["mean"] == pytest.approx([np.mean(seen)], abs=1e-5)
    assert saved["std"] == pytest.approx([max(np.std(seen), 1e-3)], abs=1e-5)


def test_a_reward_that_was_stopped_ends_as_if_nothing_had_happened(rewards, tmp_path):
    shutil.copytree(rewards, tmp_path / "run")
    again, straight = tmp_path / "run", rewards
    shutil.rmtree(again / "scalar")
    config = read_config(again)
    with pytest.raises(Stopped):
        pipeline.run(config, again, stage="scalar", stop=StopAfter(2))
    assert len(numbers(again / "scalar")) == 1 and not (again / "scalar" / "weights.safetensors").exists()
    pipeline.run(config, again, stage="scalar")
    assert numbers(again / "scalar") == numbers(straight / "scalar")
    for file in ("weights.safetensors", "tokenizer.json", "calibration.json"):
        assert (again / "scalar" / file).read_bytes() == (straight / "scalar" / file).read_bytes()


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("screen", "unknown train entry in reward_from 'screen': known are aesthetic, scalar"),
        ("by_clip", "unknown train entry in reward_from 'by_clip': known are aesthetic, scalar"),
        ("by_aesthetic", "unknown train entry in reward_from 'by_aesthetic': .*did you mean 'aesthetic'"),
        ("scalr", "unknown train entry in reward_from 'scalr': .*did you mean 'scalar'"),
        ("", "unknown train entry in reward_from ''"),
    ],
)
def test_only_a_reward_that_is_trained_can_be_the_trained_one(named, said):
    config = load(f"{CONFIGS / 'reward.py'}:tiny")
    config.by_clip.reward = "aesthetic"  # a published one, which a score entry may name
    config.by_scalar.reward_from = named
    with pytest.raises(InputError, match=said):
        check(config, "by_scalar")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": ""}, "source '': reward_modelling learns from preferences; name an entry that screens, or coll"),
        ({"reward": "scaler"}, "unknown reward to train 'scaler': .*did you mean 'scalar'"),
        ({"hyper": {"beta": 1.0}}, "unknown option of scalar.hyper 'beta'"),
        ({"scalar": {"sise": "storybook"}}, "unknown option of scalar.scalar 'sise'.*did you mean 'size'"),
    ],
)
def test_options_of_the_training_are_checked_before_anything_runs(change, said):
    config = load(f"{CONFIGS / 'reward.py'}:tiny")
    check(config, "scalar")
    config.scalar.update(change)
    with pytest.raises(InputError, match=said):
        check(config, "scalar")


def test_the_whole_command_refuses_at_once(reward_flags, tmp_path, capsys):
    code = launch.main([*reward_flags, "--config.by_scalar.reward_from=screen", f"--workdir={tmp_path / 'run'}"])
    assert code == 2 and not (tmp_path / "run").exists()
    said = "unknown train entry in by_scalar.reward_from 'screen': known are aesthetic, scalar;"
    assert capsys.readouterr().err.startswith(said)


def test_preferences_of_ones_own(encoders, tmp_path):
    """Pictures of several sizes and two people's verdicts: a reward is trained and compared with them."""
    rng = np.random.default_rng(0)
    lines = []
    for name, side in (("a", 40), ("b", 48), ("c", 40), ("d", 40), ("mara", 24)):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(tmp_path / f"{name}.png")
    subjects = [{"class_word": "character", "images": ["mara.png"]}]
    for name in "abcd":
        prompt = "Mara waves." if name in "ab" else "Mara reads."
        lines.append(json.dumps({"id": name, "prompt": prompt, "picture": f"{name}.png", "subjects": subjects}))
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    verdicts = [{"chosen": "a", "rejected": "b"}, {"chosen": "d", "rejected": "c"}]
    verdicts.append({"chosen": "a", "rejected": "b", "tie": True})
    (tmp_path / "preferences.jsonl").write_text("\n".join(map(json.dumps, verdicts)))
    (tmp_path / "others.jsonl").write_text("\n".join(map(json.dumps, verdicts[1:])))
    options = {
        "collect.pictures": tmp_path / "mine.jsonl",
        "collect.preferences": tmp_path / "preferences.jsonl",
        "held_out.pictures": tmp_path / "mine.jsonl",
        "held_out.preferences": tmp_path / "others.jsonl",
        "scalar.scalar.size": STORYBOOK,
        "scalar.scalar.clip": encoders / "clip" / "weights.safetensors",
        "scalar.scalar.subject": encoders / "iresnet" / "weights.safetensors",
        "scalar.total_steps": 2,
        "scalar.batch_size": 4,
        "scalar.optimizer.warmup_steps": 1,
        "by_scalar.batch_size": 4,
    }
    flags = [f"--config.{key}={value}" for key, value in options.items()]
    workdir = tmp_path / "run"
    assert launch.main([f"--config={CONFIGS / 'reward.py'}:own", *flags, f"--workdir={workdir}"]) == 0
    found = summary(workdir)
    assert found["collect/preferences"] == 3 and found["accuracy/pairs/overall"] == 1, "a tie tells nothing"
    scores = {each.candidate_id: each.scores[0] for each in records(workdir / "by_scalar" / "scores", Score)}
    assert found["accuracy/by_scalar/overall"] == (scores["d"] > scores["c"])
