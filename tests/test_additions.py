"""What an addition may touch: one of each kind, unknown to the package, runs by tables of names."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from toy_critic import CritiqueThenScore, NewCritic
from toy_family import NAMES, ToyPreset

from narrative_jax import export, pipeline, sample
from narrative_jax.algorithms.base import POLICY, REWARD, Algorithm, example_keys, summed
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError
from narrative_jax.core.files import read_json
from narrative_jax.core.images import to_float
from narrative_jax.core.records import Annotation, Candidate, Score
from narrative_jax.data.datasets import open_records
from narrative_jax.generators.rollout import rollout
from narrative_jax.models.lora import read_adapter

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ADAPTER = {"rank": 2, "alpha": 2.0, "targets": ".*", "segments": (), "seed": 0}


@dataclass(frozen=True)
class Toward(Algorithm):
    """Follows a reward's gradient through the last step of a short rollout."""

    batch: ClassVar[str] = "scenes"
    roles: ClassVar[tuple[str, ...]] = (POLICY, REWARD)

    def loss(self, models, batch, key):
        policy, params = models.policy
        noise = jax.vmap(lambda key: jax.random.normal(key, policy.latent_shape))(example_keys(key, batch))
        followed = jnp.array([False, True])
        latents = rollout(policy, params, batch["conditioning"], noise, policy.sampler_times(2), followed=followed)
        images = policy.decode(params, latents)
        rewards = models.reward.model.score(models.reward.params, images, batch["context"])[:, 0]
        return summed(-rewards, reward=rewards)


def tiny(**changes):
    config = load(f"{CONFIGS / 'adpo.py'}:tiny")
    config.report = False
    config.align.sample_every = 0
    config.update(changes)
    return config


def tables(**more):
    known = pipeline.default_tables()
    return replace(known, **{name: {**getattr(known, name), **values} for name, values in more.items()})


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_an_algorithm_with_a_reward_in_its_loss(tmp_path, tiny_weights):
    config = tiny(stages=("generate", "align"))
    config.generator.weights = str(tiny_weights)
    config.align.update(source="generate", algorithm="toward", total_steps=12, save_every=12)
    config.align.optimizer.update(learning_rate=0.02)
    with config.unlocked():
        config.align.update(reward="clip_cosine", clip_cosine={"weights": "", "size": "storybook"})
        config.align.hyper = {}
    pipeline.run(config, tmp_path, tables=tables(algorithms={"toward": Toward}))
    rewards = [row["reward"] for row in metrics(tmp_path / "align")]
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.01
    *_, weights = read_adapter(tmp_path / "align" / "adapter.safetensors")
    assert weights and all(key.startswith("transformer.") for key in weights), "the reward is not trained, nor saved"


def test_a_reward_in_a_loss_must_have_a_gradient(tmp_path):
    config = tiny(stages=("generate", "align"))
    with config.unlocked():
        config.align.update(source="generate", algorithm="toward", reward="picture_statistics")
        config.align.hyper = {}
    with pytest.raises(InputError, match="reward 'picture_statistics' in a loss: a loss follows its reward's gradient"):
        pipeline.run(config, tmp_path / "run", tables=tables(algorithms={"toward": Toward}))
    config.align.reward = ""
    with pytest.raises(InputError, match=r"align.reward '': toward has one in its loss; name a reward there"):
        pipeline.run(config, tmp_path / "run", tables=tables(algorithms={"toward": Toward}))
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    workdir, known = tmp_path_factory.mktemp("toy"), tables(presets={"toy": ToyPreset()})
    config = tiny()
    with config.unlocked():
        config.generator = {"preset": "toy"}
        config.align.adapter.update(ADAPTER)
        config.align.optimizer.update(learning_rate=0.05)
        config.align.sample_every = 4
    pipeline.run(config, workdir, tables=known)
    return workdir, known


def test_a_second_family_is_aligned(toy_run):
    workdir, _ = toy_run
    first, aligned = (
        open_records(workdir / "evaluate" / arm / "candidates", Candidate) for arm in ("baseline", "align")
    )
    assert first[0].image.shape == (40, 40, 3) and first[0].image.std() > 5
    assert not np.array_equal(first[0].image, aligned[0].image)
    assert (workdir / "align" / "samples" / "step-000004.png").exists()
    *_, weights = read_adapter(workdir / "align" / "adapter.safetensors")
    assert {key.partition(".")[0] for key in weights} == {"unet"} and all(value.any() for value in weights.values())


def test_a_second_family_is_sampled_and_exported(toy_run, tmp_path):
    workdir, known = toy_run
    aligned = sample.load(workdir, tables=known).draw("Mara waves", count=2)
    export.export(workdir, "align", tmp_path / "lora", known)
    path = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    again = sample.load(workdir, str(path), known).draw("Mara waves", count=2)
    np.testing.assert_allclose(again.astype(int), aligned.astype(int), atol=1)
    assert not np.array_equal(sample.load(workdir, "baseline", known).draw("Mara waves", count=2), aligned)
    with safe_open(path, framework="numpy") as file:
        assert {key.partition(".lora")[0] for key in file.keys()} == {f"unet.{name}" for name in NAMES["unet"].values()}  # noqa: SIM118
    assert "narrative_jax toy: random weights of seed 0" in (tmp_path / "lora" / "README.md").read_text()
    with pytest.raises(InputError, match="unknown preset 'toy'"):
        sample.load(workdir)


@pytest.mark.slow
def test_a_reward_that_writes_critiques_trains_an_adapter_of_its_own(tmp_path):
    config = tiny(stages=("reference", "calibrate", "generate", "score", "screen", "critic", "by_critic"))
    with config.unlocked():
        config.generator = {"preset": "toy"}
        config.critic = {
            **{key: config.align[key] for key in ("stage", "source", "batch_size", "accumulate", "save_every", "seed")},
            "trains": "reward",
            "reward": "critic",
            "critic": {"side": 40},
            "algorithm": "critique_then_score",
            "adapter": ADAPTER,
            "total_steps": 20,
            "optimizer": {"learning_rate": 0.05},
        }
        config.by_critic = {
            "stage": "score",
            "source": "generate",
            "reward": "trained",
            "reward_from": "critic",
            "batch_size": 8,
        }
    known = tables(
        presets={"toy": ToyPreset()},
        trainable_rewards={"critic": NewCritic},
        algorithms={"critique_then_score": CritiqueThenScore},
    )
    pipeline.run(config, tmp_path, tables=known)
    losses = [row["loss"] for row in metrics(tmp_path / "critic")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    name, options, _, weights = read_adapter(tmp_path / "critic" / "adapter.safetensors")
    assert name == "critic" and options.rank == 2 and weights.keys() > {"reader.judge.adapters.critic.b"}
    scores = open_records(tmp_path / "by_critic" / "scores", Score).columns("scores")["scores"]
    images = to_float(np.stack([each.image for each in open_records(tmp_path / "generate" / "candidates", Candidate)]))
    reward, read = NewCritic().untrained(0)
    adapted, fresh = reward.with_adapter(read(), "critic", **ADAPTER)
    expected = adapted.score({**fresh, **weights}, images, None)
    np.testing.assert_allclose(np.array(scores), np.asarray(expected), rtol=1e-4, atol=1e-5)
    assert not np.allclose(np.array(scores), np.asarray(reward.score(read(), images, None)), atol=1e-3)
    assert read_json(tmp_path / "critic" / "calibration.json")["reward"] == "critic"
    said = open_records(tmp_path / "by_critic" / "annotations", Annotation).columns("critique")["critique"]
    assert len(said) == len(scores) and all(re.fullmatch("[a-h]{3}", words) for words in said)
