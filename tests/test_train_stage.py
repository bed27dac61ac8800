"""The train stage on real networks: stopped and started again it ends as if nothing had happened."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict
from one_entry import check, entry
from safetensors.numpy import load_file

from narrative_jax import pipeline
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.core.stop import StopFlag
from narrative_jax.generators.flow import FlowGenerator
from narrative_jax.generators.flow_presets import TINY_FLOW
from narrative_jax.models.lora import adapter_of
from narrative_jax.rewards.base import ASPECTS
from narrative_jax.runs.directory import read_config
from narrative_jax.runs.entries import options_of
from narrative_jax.stages import train
from narrative_jax.training.step import new_state

PRETRAIN = Path(__file__).parents[1] / "configs" / "pretrain.py"
ADPO = PRETRAIN.with_name("adpo.py")


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
@pytest.mark.slow
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


@pytest.mark.slow
def test_something_is_learned_in_one_compilation(straight):
    assert all(line["grad_norm"] > 0 for line in numbers(straight / "pretrain"))
    assert summary(straight)["compile/pretrain"] == 1


@pytest.mark.slow
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
    generator, params = TINY_FLOW.load(TINY_FLOW.Options(weights=weights, text=str(tmp_path / "clip")), 0)
    assert params.keys() == generator.axes.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": ("noisy",), "targets": ".*"}, "one modulation serves"),
        ({"segments": ("nois",)}, "did you mean 'noisy'"),
        ({"targets": ".*to_x"}, "they match dotted paths of linear layers"),
    ],
)
def test_an_adapter_that_the_network_cannot_run_is_refused_before_anything_starts(change, message):
    aligning = load(f"{ADPO}:tiny")
    check(aligning, "align")
    aligning.align.adapter.update(change)
    with pytest.raises(InputError, match=message):
        check(aligning, "align")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": ""}, r"align.source '': it is trained on what an earlier entry left, or on a training set"),
        ({"source": "generate"}, r"source 'generate': that entry makes no preferences; name one that screens, or"),
        (
            {"source": "score", "algorithm": "sft", "hyper": {}},
            r"source 'score': that entry makes neither preferences nor examples",
        ),
        ({"training_set": {"kind": "raw", "size": 8}}, r"source 'screen' and a training_set: .*one of both; leave one"),
        (
            {"source": "", "training_set": {"kind": "raw", "size": 8}},
            r"align.source '': dpo trains on preferences; name the entry that makes them",
        ),
        (
            {"algorithm": "contrastive", "hyper": {}},
            r"unknown algorithm for generator 'contrastive': known are sft, dpo",
        ),
        ({"accumulate": 3}, r"batch_size 4: it is a multiple of 3"),
        ({"sample_every": -1}, r"sample_every -1"),
        ({"reward": "oracle"}, r"align.reward 'oracle': dpo has none in its loss"),
    ],
)
def test_what_a_generator_cannot_be_trained_on(change, message):
    aligning = load(f"{ADPO}:tiny")
    for key, value in change.items():
        aligning.align[key] = value
    with pytest.raises(InputError, match=message):
        check(aligning, "align")


def test_without_an_adapter_there_is_no_reference():
    aligning = load(f"{ADPO}:tiny")
    del aligning.align.adapter
    with pytest.raises(InputError, match=r"align without an adapter: dpo keeps a reference: .*; set adapter"):
        check(aligning, "align")
    aligning.align.update(algorithm="sft")
    aligning.align.hyper = {}
    check(aligning, "align")


def test_only_the_adapter_is_trained_and_the_reference_has_none(tmp_path):
    context = entry(load(f"{ADPO}:tiny"), "align", tmp_path)
    options, algorithm = options_of(context), context.tables.algorithms["dpo"]()
    kind = context.tables.trainees["generator"]
    trainee = kind.open(context, algorithm, train._trainee_options(context))
    assert {adapter_of(name) for name in trainee.params} == {"align"}
    assert {adapter_of(name) for name in trainee.frozen} == {None}
    assert {name.partition(".")[0] for name in trainee.frozen} == {"transformer"}
    assert {name.partition(".")[0] for name in trainee.encoding} == {"text_encoder"}, "no step needs it"
    models = trainee.models(trainee.params, trainee.frozen)
    assert models.policy.params.keys() == trainee.params.keys() | trainee.frozen.keys()
    assert models.policy.model.network.axes.keys() == {n.removeprefix("transformer.") for n in models.policy.params}
    assert models.reference.params is trainee.frozen and models.reward is None
    bare = {name.removeprefix("transformer.") for name in trainee.frozen}
    assert models.reference.model.network.axes.keys() == bare, "it was there before the adapter"
    moments = new_state(trainee.params, options.optimizer.build(options.total_steps)).opt_state
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(moments) if leaf.ndim)
    assert shapes == sorted(2 * [weight.shape for weight in trainee.params.values()])


@pytest.mark.slow
def test_records_are_encoded_once(adpo_run, tmp_path, monkeypatch):
    """A run that goes on reads what the stopped one encoded, and its steps ask for no encoder."""
    run = shutil.copytree(adpo_run, tmp_path / "run")
    expected = numbers(run / "align"), load_file(run / "align" / "adapter.safetensors")
    shutil.rmtree(run / "align")
    config = read_config(run)
    with pytest.raises(Stopped):
        pipeline.run(config, run, stage="align", stop=StopAfter(6))
    assert 0 < len(numbers(run / "align")) < 4
    encoded = run / "align" / "encoded"
    assert {path.name for path in encoded.iterdir()} == {"latents", "conditioning"}
    candidates, preferences = 24, 36
    assert len(np.load(encoded / "latents" / "0.npy")) <= candidates < 2 * preferences
    assert {len(np.load(path)) for path in (encoded / "conditioning").iterdir()} == {6}, "one for each scene"

    def refuse(*args):
        raise AssertionError("this was encoded")

    for name in ("encode", "encode_images"):
        monkeypatch.setattr(FlowGenerator, name, refuse)
    config = ConfigDict(config.to_dict())
    config.align.sample_every = 0  # samples are of other scenes
    pipeline.run(config, run, stage="align")
    assert numbers(run / "align") == expected[0]
    jax.tree.map(np.testing.assert_array_equal, load_file(run / "align" / "adapter.safetensors"), expected[1])
    assert not encoded.exists()


def test_the_end_of_a_training_is_the_mean_of_its_last_steps(tmp_path):
    """One batch says little; what a later config no longer measures is left out."""
    rows = [{"step": step, "loss": float(step % 10), "step_seconds": 1.0} for step in range(1, 121)]
    lines = [json.dumps(row | ({"old": 1.0} if row["step"] < 100 else {})) for row in rows]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert train.last_numbers(tmp_path) == {"step": 120, "loss": 4.5}
    (tmp_path / "metrics.jsonl").write_text(lines[0])
    assert train.last_numbers(tmp_path) == {"step": 1, "loss": 1.0, "old": 1.0}
