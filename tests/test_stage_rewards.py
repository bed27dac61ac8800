"""Rewards by name: options, weights on disk, and pictures of several sizes in the score stage."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from one_entry import entry, run
from small_rewards import DINO, TEXT, TOKENIZER, VISION, clip_params, pictures, scenes, small_clip, small_dino

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float, to_uint8
from narrative_jax.core.records import Candidate, Score
from narrative_jax.data.datasets import open_records, write_records
from narrative_jax.models.checkpoints import save_weights
from narrative_jax.models.clip import CLIP_NAMES, CLIP_SIZES
from narrative_jax.models.dinov2 import DINOV2_NAMES, DINOV2_SIZES
from narrative_jax.rewards.clip_scores import ClipCosine
from narrative_jax.rewards.identity import Identity
from narrative_jax.rewards.subject_consistency import Grid, SubjectConsistency
from narrative_jax.runs.rewards import describe_reward, open_pure_reward, open_reward


@pytest.fixture(scope="module")
def published(random_weights, tmp_path_factory):
    """Weights of small encoders, as files."""
    folder = tmp_path_factory.mktemp("published")
    TOKENIZER.save(folder / "tokenizer.json")
    save_weights(folder / "clip.safetensors", clip_params(random_weights), CLIP_NAMES, np.float32)
    save_weights(folder / "dino.safetensors", small_dino(random_weights).params, DINOV2_NAMES, np.float32)
    return folder


@pytest.fixture
def config(published, monkeypatch):
    monkeypatch.setitem(CLIP_SIZES, "Tiny", (TEXT, VISION))
    monkeypatch.setitem(DINOV2_SIZES, "Tiny", DINO)
    section = {
        "stage": "score",
        "source": "generate",
        "reward": "clip_cosine",
        "batch_size": 2,
        "clip_cosine": {"weights": str(published / "clip.safetensors"), "size": "Tiny"},
        "identity": {"weights": str(published / "dino.safetensors"), "size": "Tiny", "side": 16},
        "subject_consistency": {
            "weights": str(published / "dino.safetensors"),
            "size": "Tiny",
            "form": "grid",
            "patches": {"size": 12, "stride": 6},
            "side": 24,
        },
        "per_aspect": {
            "prompt_following": "clip_cosine",
            "identity_consistency": "identity",
            "visual_quality": "subject_consistency",
        },
    }
    sections = {"generate": {"stage": "generate"}, "score": section}
    return ConfigDict({"scenes": "", "characters": 1, "mesh": {"data": -1}, **sections})


def by_hand(random_weights, images, asked):
    dino = small_dino(random_weights)
    rewards = ClipCosine(small_clip(random_weights)), Identity(dino, 16), SubjectConsistency(dino, Grid(12, 6), 24)
    return np.concatenate([jax.jit(r.score)(r.params, to_float(images), r.encode(asked)) for r in rewards], 1)


@pytest.mark.slow
def test_pictures_of_several_sizes(tmp_path, config, random_weights):
    asked = scenes(1, 1, 1)
    images = [to_uint8(pictures(1, *size, seed=size[0])[0]) for size in ((18, 27), (20, 20), (18, 27))]
    write_records(tmp_path / "generate" / "scenes", asked)
    candidates = [Candidate(f"{i}/0", str(i), image, 0, "test") for i, image in enumerate(images)]
    write_records(tmp_path / "generate" / "candidates", candidates)
    config.score.reward = "per_aspect"
    numbers = run(config, "score", tmp_path)
    records = list(open_records(tmp_path / "score" / "scores", Score))
    assert [record.candidate_id for record in records] == ["0/0", "1/0", "2/0"]
    expected = np.concatenate([by_hand(random_weights, images[i][None], asked[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose([record.scores for record in records], expected, atol=1e-4)
    assert list(numbers)[1:] == ["mean/prompt_following", "mean/identity_consistency", "mean/visual_quality"]
    saved = json.loads((tmp_path / "score" / "calibration.json").read_text())
    assert (saved["reward"], saved["on"]) == ("per_aspect", "generate")


def test_a_reward_is_made_without_reading_weights(config, published, monkeypatch):
    monkeypatch.setattr("narrative_jax.rewards.clip_files.load_clip_weights", None)
    assert describe_reward(entry(config, "score")).aspects == ("clip_cosine_tiny",)
    with pytest.raises(TypeError):
        open_reward(entry(config, "score"))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"reward": "clip_cosin"}, r"unknown reward 'clip_cosin'.*did you mean 'clip_cosine'"),
        ({"clip_cosine.wait": 1}, r"unknown option of score.clip_cosine 'wait'.*did you mean 'weights'"),
        ({"clip_cosine.weights": "no/where"}, "weights 'no/where': there is no such file"),
        (
            {"clip_cosine": {}},
            "score.clip_cosine: 'weights' is missing, it has no default; set score.clip_cosine.weights to a path",
        ),
        ({"batch_size": 0}, "batch_size of reward 'clip_cosine_tiny' 0"),
        ({"reward": "subject_consistency", "subject_consistency.form": "grit"}, "did you mean 'grid'"),
        ({"reward": "subject_consistency", "subject_consistency.patches.count": 3}, "option of form grid 'count'"),
        ({"reward": "identity", "identity.side": 18}, "squares of 18: .* its patch, 4; take 16 or 20"),
        ({"reward": "identity", "identity.side": 3}, "squares of 3: .*; take 4 or 8"),
        ({"reward": "identity", "identity.side": 0}, "side 0: side is an integer ≥ 1"),
        ({"reward": "subject_consistency", "subject_consistency.patches.size": 10}, "squares of 10: dinov2_tiny sees"),
        (
            {"reward": "subject_consistency", "subject_consistency.form": "crops", "subject_consistency.patches": {}},
            "squares of 378: dinov2_tiny sees squares",
        ),
        (
            {
                "reward": "subject_consistency",
                "subject_consistency.form": "crops",
                "subject_consistency.patches": {"size": 12, "whole": 9},
            },
            "squares of 9: dinov2_tiny sees squares",
        ),
        ({"reward": "per_aspect", "per_aspect.identity_consistency": "oracle"}, "unknown pure reward 'oracle'"),
        ({"reward": "per_aspect", "per_aspect.looks": "identity"}, "unknown aspect of score.per_aspect 'looks'"),
        (
            {"reward": "per_aspect", "per_aspect": {"visual_quality": "identity"}},
            "per_aspect without 'prompt_following'",
        ),
    ],
)
def test_bad_options(config, change, said):
    for key, value in change.items():
        section = config.score
        *sections, last = key.split(".")
        for part in sections:
            section = section[part]
        section[last] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(InputError, match=said):
        describe_reward(entry(config, "score"))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"scor": 1.0}, "unknown score entry of an ensemble 'scor'.*did you mean 'score'"),
        ({"judge": 1.0}, "ensemble of 'judge', which is 'oracle': its terms are networks, not rewards that work on"),
        ({"both": 1.0}, "ensemble of 'both', which is 'ensemble': its terms are networks, .* and no ensembles"),
        ({"aspects": 1.0}, "aspects by a reward of 3 aspects"),
        ({"score": 0.5, "again": -0.5}, "weights again -0.5, score 0.5: they are numbers that do not sum to zero"),
        ({"score": "much"}, "both.ensemble.score.weight 'much': it is a number"),
        ({}, "ensemble of nothing: it gives weights to score entries; set its section, e.g."),
        (("score",), r"ensemble \('score',\): it gives weights"),
    ],
)
def test_what_adds_up_to_no_ensemble(config, weights, said):
    config.judge = {"stage": "score", "source": "generate", "reward": "oracle"}
    config.again = config.score.to_dict()
    config.aspects = {**config.score.to_dict(), "reward": "per_aspect"}
    config.both = {"stage": "score", "source": "generate", "reward": "ensemble", "batch_size": 2, "ensemble": weights}
    with pytest.raises(InputError, match=said):
        describe_reward(entry(config, "both"))


def test_an_ensemble_needs_what_it_is_calibrated_by(config, tmp_path):
    config.both = {"stage": "score", "source": "generate", "reward": "ensemble", "batch_size": 2}
    config.both.ensemble = {"score": 0.5}
    assert describe_reward(entry(config, "both")).aspects == ("ensemble",)
    with pytest.raises(InputError, match=r"score/calibration.json"):
        open_reward(entry(config, "both", tmp_path))


def test_a_host_reward_is_not_pure():
    config = ConfigDict({"train": {"stage": "train", "reward": "raters"}})
    with pytest.raises(InputError, match="reward 'raters' in a loss"):
        open_pure_reward(entry(config, "train"))
