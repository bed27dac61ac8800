"""The train stage on real networks: stopped and started again it ends as if nothing had happened."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import FrozenConfigDict

from narrative_jax import pipeline
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.core.stop import StopFlag
from narrative_jax.generators.presets import load_generator
from narrative_jax.models.lora import adapter_of
from narrative_jax.rewards.base import ASPECTS
from narrative_jax.stages import train
from narrative_jax.stages.base import Context
from narrative_jax.training.step import new_state

PRETRAIN = Path(__file__).parents[1] / "configs" / "pretrain.py"


class StopAfter(StopFlag):
    """A wish to stop that comes up at the n-th look at the flag: one before the entry, then one a step."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def requested(self):
        self.looks -= 1
        return self.looks <= 0


def config():
    """The tiny generator on the embedded text encoder, 4 steps."""
    config = load(f"{PRETRAIN}:tiny")
    config.stages, config.generator.text = ("pretrain",), ""
    config.pretrain.update(total_steps=4, save_every=3, sample_every=0)
    return config


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    pipeline.run(config(), workdir)
    return workdir


def state(folder):
    """All leaves of the last checkpoint, by path."""
    with ocp.CheckpointManager(folder / "checkpoints", item_names=("state", "data")) as manager:
        step = manager.latest_step()
        items = ocp.args.Composite(state=ocp.args.StandardRestore(), data=ocp.args.JsonRestore())
        restored = manager.restore(step, args=items)
    leaves = jax.tree_util.tree_leaves_with_path(restored["state"])
    return step, restored["data"], {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def numbers(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "step_seconds"} for line in lines]


def summary(workdir):
    numbers = json.loads((workdir / "summary.json").read_text())
    return {key: value for key, value in numbers.items() if not key.startswith(("time/", "memory/"))}


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_stopped_and_started_again(tmp_path, straight):
    with pytest.raises(Stopped):
        pipeline.run(config(), tmp_path, stop=StopAfter(3))
    assert len(numbers(tmp_path / "pretrain")) == 2 and not (tmp_path / "pretrain" / "manifest.json").exists()
    pipeline.run(config(), tmp_path)
    assert numbers(tmp_path / "pretrain") == numbers(straight / "pretrain")
    step, data, leaves = state(tmp_path / "pretrain")
    expected_step, expected_data, expected = state(straight / "pretrain")
    assert (step, data) == (expected_step, expected_data) and step == 4 and data
    assert leaves.keys() == expected.keys() and any("opt_state" in name for name in leaves)
    different = [name for name, leaf in expected.items() if leaf.tobytes() != leaves[name].tobytes()]
    assert not different
    weights = "pretrain/weights.safetensors"
    assert (tmp_path / weights).read_bytes() == (straight / weights).read_bytes()
    assert summary(tmp_path) == summary(straight)


def test_something_is_learned_in_one_compilation(straight):
    assert all(line["grad_norm"] > 0 for line in numbers(straight / "pretrain"))
    assert summary(straight)["compile/pretrain"] == 1


def test_the_whole_config_at_its_smallest(tmp_path):
    """CLIP, the flow on its text encoder, then evaluation: no weights come from anywhere else."""
    pipeline.run(load(f"{PRETRAIN}:tiny"), tmp_path)
    assert (tmp_path / "pretrain" / "samples" / "step-000002.png").exists()
    assert len(numbers(tmp_path / "clip")) == len(numbers(tmp_path / "pretrain")) == 2
    found = summary(tmp_path)
    assert found["compile/clip"] == found["compile/pretrain"] == 1
    for aspect in ASPECTS:
        assert 0 <= found[f"gold/{aspect}/aligned"] <= 1 and found[f"gold/{aspect}/ceiling"] > 0.9
    weights = str(tmp_path / "pretrain" / "weights.safetensors")
    generator, params = load_generator("tiny", weights, str(tmp_path / "clip"), 0)
    assert params.keys() == generator.network.axes.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": ("noisy",), "targets": ".*"}, "one modulation serves"),
        ({"segments": ("nois",)}, "did you mean 'noisy'"),
        ({"targets": ".*to_x"}, "they match dotted paths of linear layers"),
    ],
)
def test_an_adapter_that_the_network_cannot_run_is_refused_before_anything_starts(change, message):
    aligning = load(f"{PRETRAIN.with_name('adpo.py')}:tiny")
    aligning.align.adapter.update(change)
    with pytest.raises(InputError, match=message):
        train.check(aligning, aligning.align)


@pytest.mark.parametrize("algorithm", ["dpo", "sft"])
def test_generators_do_not_learn_from_peoples_own_pairs(algorithm):
    aligning = load(f"{PRETRAIN.with_name('adpo.py')}:tiny")
    aligning.collect = {"stage": "collect", "pictures": "mine", "preferences": "mine.jsonl"}
    aligning.align.update(source="collect", algorithm=algorithm)
    aligning.align.hyper = {}
    with pytest.raises(InputError, match=r"source 'collect': generators train on screened candidates, .*screen by"):
        train.check(aligning, aligning.align)


def test_only_the_adapter_is_trained_and_the_reference_has_none(tmp_path, monkeypatch):
    aligning = FrozenConfigDict(load(f"{PRETRAIN.with_name('adpo.py')}:tiny"))
    monkeypatch.setattr(train, "pairs", lambda context, generator: (1, None))
    trainee = train._prepare(Context(aligning, "align", tmp_path), train.make_algorithm(aligning.align)).trainee
    assert {adapter_of(name) for name in trainee.params} == {"align"}
    assert {adapter_of(name) for name in trainee.frozen} == {None}
    assert trainee.policy.network.axes.keys() == trainee.params.keys() | trainee.frozen.keys()
    assert trainee.reference.network.axes.keys() == trainee.frozen.keys(), "it was there before the adapter"
    moments = new_state(trainee.params, train.make_optimizer(aligning.align).build()).opt_state
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(moments) if leaf.ndim)
    assert shapes == sorted(2 * [weight.shape for weight in trainee.params.values()])
