"""The encoders that ship: small files, and rewards made of them know the scene, its characters and noise."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from one_entry import entry
from PIL import Image

from narrative_jax import launch
from narrative_jax.core.config import load
from narrative_jax.core.images import to_uint8
from narrative_jax.data.sources import storybook_training_set
from narrative_jax.models.shipped import EMBEDDED
from narrative_jax.rewards.base import ASPECTS
from narrative_jax.runs.rewards import open_reward

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def examples():
    return storybook_training_set("true", 64, split="tune").batch(range(64))


def test_they_are_small():
    files = [path for path in (EMBEDDED / "encoders").iterdir() if path.suffix == ".safetensors"]
    assert {path.stem for path in files} == {"clip", "dinov2", "iresnet", "isnet", "aesthetic"}
    assert sum(path.stat().st_size for path in files) < 8e6


@pytest.mark.slow
def test_they_find_the_other_half_of_a_pair(tmp_path):
    """Of 64 pairs, by the command that measures them; chance is 1 of 64."""
    flags = [f"--config={CONFIGS / 'encoders.py'}:embedded", "--config.retrieve.pairs=64"]
    assert launch.main([*flags, f"--workdir={tmp_path}"]) == 0
    found = json.loads((tmp_path / "summary.json").read_text())
    for kind, least in {"clip": 0.6, "dinov2": 0.9, "iresnet": 0.7}.items():
        for half in ("first", "second"):
            assert found[f"retrieve/embedded_{kind}/{half}"] > least, (kind, half)


@pytest.fixture(scope="module")
def proxies(examples):
    """How often each aspect's own reward prefers true pictures, to those of other scenes and to noisy ones."""
    reward = open_reward(entry(load(f"{CONFIGS / 'adpo.py'}:proxies"), "score"))
    assert reward.aspects == ASPECTS and not reward.needs_facts
    scenes, ids = [example.scene for example in examples], [example.scene.id for example in examples]
    images = np.stack([example.target for example in examples])
    noise = np.random.default_rng(0).normal(scale=0.4, size=images.shape)
    noisy = to_uint8(images / 127.5 - 1 + noise)
    true, *others = (reward.score_images(each, scenes, ids) for each in (images, np.roll(images, 1, 0), noisy))
    return [(true > other).mean(0) for other in others]


def test_the_proxies_of_adpo_tell_true_pictures_from_others(proxies):
    """Pictures of other scenes lose on the first two aspects."""
    other_scenes, _ = proxies
    assert other_scenes[0] > 0.9 and other_scenes[1] > 0.9, other_scenes


@pytest.mark.xfail(strict=True, reason="a linear head on this CLIP tells nothing of quality: 0.45")
def test_the_head_of_adpo_prefers_clean_pictures(proxies):
    _, noisy = proxies
    assert noisy[2] > 0.6, "a weak judge, above chance"


def test_pictures_are_scored_without_any_weights_of_ones_own(examples, tmp_path):
    for name, example in zip("ab", examples, strict=False):
        Image.fromarray(example.target).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(example.scene.prompt)
    flags = [f"--config={CONFIGS / 'score.py'}:storybook", f"--config.collect.pictures={tmp_path}"]
    assert launch.main([*flags, f"--workdir={tmp_path / 'run'}"]) == 0
    table = pq.read_table(tmp_path / "run" / "table" / "scores.parquet").to_pydict()
    assert table["id"] == ["a", "b"] and {"clip_cosine_storybook", "aesthetic_storybook"} <= table.keys()
