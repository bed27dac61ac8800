"""The export command: a run's adapter leaves as diffusers and PEFT know it, comes back, and tells how it was made."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from narrative_jax import export, sample
from narrative_jax.core.errors import InputError
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.generators.flow_presets import TINY_FLOW
from narrative_jax.models.lora import read_adapter, save_adapter
from narrative_jax.report.run import Run

UNSAID = (
    "This adapter acts on noisy and text tokens only, which the files cannot say: elsewhere it acts on subject tokens "
    "too; without subject images the pictures are the same. The base predicts clean latents; FLUX pipelines would take "
    "them for velocity.\n"
)


@pytest.fixture(scope="module")
def run(adpo_run, tmp_path_factory):
    """A finished run whose adapter was made large and whose numbers are told apart, which no tiny run's are."""
    run = shutil.copytree(adpo_run, tmp_path_factory.mktemp("large") / "run")
    path = run / "align" / "adapter.safetensors"
    name, made_with, base, weights = read_adapter(path)
    save_adapter(path, {key: value + 0.3 for key, value in weights.items()}, name, made_with, base)
    for file in (run / "evaluate" / "manifest.json", run / "summary.json"):
        told = json.loads(file.read_text())
        numbers = told.get("summary", told)
        gold = sorted(key for key in numbers if key.startswith("gold/"))
        numbers.update({key: (7 * place - 99) / 1000 for place, key in enumerate(gold)})
        file.write_text(json.dumps(told))
    return run


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The folder that the command wrote, and what it said."""
    folder = tmp_path_factory.mktemp("exported")
    command = [sys.executable, "-m", "narrative_jax.export", f"--run={run}", "--out=new/lora"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return folder / "new" / "lora", done


def test_the_command(run, exported):
    folder, done = exported
    assert (done.returncode, done.stderr) == (0, UNSAID)
    assert done.stdout == f"new/lora: the adapter of {run}, for diffusers and PEFT\n"
    assert {path.name for path in folder.iterdir()} == {
        "pytorch_lora_weights.safetensors",
        "adapter_config.json",
        "README.md",
    }
    _, made_with, _, weights = read_adapter(run / "align" / "adapter.safetensors")
    arrays = load_file(folder / "pytorch_lora_weights.safetensors")
    assert len(arrays) == len(weights)
    theirs = arrays["transformer.single_transformer_blocks.0.proj_mlp.lora_B.weight"]
    np.testing.assert_array_equal(theirs, weights["transformer.single_blocks.0.mlp_in.adapters.align.b"].T)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (made_with.rank, made_with.alpha)


def test_the_card(run, exported):
    card = (exported[0] / "README.md").read_text(encoding="utf-8")
    numbers = json.loads((run / "summary.json").read_text())
    base = read_adapter(run / "align" / "adapter.safetensors")[2]
    weights = json.loads((run / "config.json").read_text())["generator"]["weights"]
    for told in (
        "license: unknown",
        f"| base | narrative_jax tiny: {weights}; hash {base} |",
        "| licence of the base | not recorded in the run",
        "| trained by | dpo, b 0.5, beta 500.0, eta 0.5, imitation 0.5, k 1.0; 4 steps of 4 |",
        f"split train: 6 scenes, 4 pictures of each by the base, {numbers['screen/pairs']:.0f} pairs |",
        "| reward | raters; privileged feedback: raters, who see the oracle's findings |",
        "Means over 4 scenes, judged by the oracle",
        UNSAID.strip(),
        'transformer.load_lora_adapter("this folder", weight_name="pytorch_lora_weights.safetensors")',
    ):
        assert told in card, told
    for aspect in ("prompt_following", "identity_consistency", "visual_quality"):
        names = ("baseline", "aligned", "diff", "diff_low", "diff_high")
        before, after, diff, low, high = (numbers[f"gold/{aspect}/{name}"] for name in names)
        row = f"| {aspect.replace('_', ' ')} | {before:.3f} | {after:.3f} | {diff:+.3f} [{low:+.3f}, {high:+.3f}] |"
        assert row in card


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("align", "taught; privileged feedback: a reward that learned from raters, who see the oracle's findings"),
        ("plain", "clip_cosine"),
        ("pretrain", "none"),
    ],
)
def test_the_reward_on_the_card(entry, told):
    config = {
        "scored": {"stage": "score", "reward": "raters"},
        "screened": {"stage": "screen", "source": "scored"},
        "taught": {"stage": "train", "source": "screened"},
        "score": {"stage": "score", "reward": "trained", "reward_from": "taught"},
        "screen": {"stage": "screen", "source": "score"},
        "align": {"stage": "train", "source": "screen"},
        "by_clip": {"stage": "score", "reward": "clip_cosine"},
        "screen_by_clip": {"stage": "screen", "source": "by_clip"},
        "plain": {"stage": "train", "source": "screen_by_clip"},
        "pretrain": {"stage": "train", "source": ""},
    }
    run = Run(Path())
    vars(run)["config"] = config  # as if it had been read
    assert export._reward(run, entry) == told


@pytest.mark.slow
def test_back_in_sample(run, exported):
    """The exported folder draws as the entry does, with portraits too, and not as the baseline."""
    scene = storybook_scenes("test", 1)[0]
    entries = ("align", str(exported[0]), "baseline")
    pictures = [sample.load(run, entry).draw_scene(scene, 1, num_steps=2) for entry in entries]
    np.testing.assert_array_equal(pictures[1], pictures[0])
    assert (pictures[2] != pictures[0]).any()


@pytest.mark.slow
def test_a_folder_and_its_file_are_one_entry(run, exported, monkeypatch):
    folder, _ = exported
    by_file, by_folder = (sample.load(run, str(path)) for path in (folder / "pytorch_lora_weights.safetensors", folder))
    assert by_file.params.keys() == by_folder.params.keys()
    monkeypatch.chdir(folder.parent)  # which holds it as "lora"
    assert sample.load(run, "lora").params.keys() == by_folder.params.keys()
    (folder.parent / "align").mkdir()  # an entry of the run, too, and that comes first
    assert sample.load(run, "align").params.keys() == sample.load(run).params.keys()
    with pytest.raises(InputError, match="align: a folder with a LoRA holds one file of the name"):
        sample.load("", "align")


def test_an_adapter_of_another_base(exported, capsys, tmp_path):
    arguments = ["--prompt=x", f"--out={tmp_path}/x.png"]
    width = "pytorch_lora_weights.safetensors: its width is 32; this generator's is 192; give a LoRA that was trained"
    for file, message in ((exported[0], width), ("a.bin", "only safetensors files are read")):
        assert sample.main([f"--entry={file}", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: --run; see --help"),
        (("--run=nowhere",), "run nowhere: it is no run directory (no config.json); name one, e.g. runs/adpo"),
        (("--run=RUN", "--entry=algin"), "unknown entry 'algin': known are align; did you mean 'align'?"),
        (("--run=RUN", "--entry=evaluate"), "unknown entry 'evaluate': known are align"),
        (("--run=RUN", "--out=file/lora"), "file/lora: it cannot be written"),
        (("--run=RUN", "--out=file"), "file: it cannot be written"),
        (("--run=RUN", "--into=x"), "unrecognized arguments: --into=x; see --help"),
    ],
)
def test_bad_input(run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    code = export.main([argument.replace("RUN", str(run)) for argument in arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.count("\n") == 1 and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_runs_without_an_adapter_to_export(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "align" / "adapter.safetensors"

    def refused(message):
        with pytest.raises(InputError, match=message):
            export.export(copy, "", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    name, made_with, base, weights = read_adapter(path)
    save_adapter(path, weights, name, replace(made_with, rank=5), base)
    refused(r"adapter\.safetensors: its arrays are not this network's: \d+ of another shape")
    path.rename(copy / "align" / "weights.safetensors")
    refused(r"entry 'align' of .*: it trained all weights and left no adapter; take its weights, in")
    (copy / "align" / "weights.safetensors").unlink()
    refused(r"entry 'align' of .*: it had no pair to train on; name an entry that was trained$")
    (copy / "align" / "manifest.json").unlink()
    refused(r"it has not finished; name an entry that was trained, or run the rest of it first")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "stages": ["generate"]}))
    refused(r"it trains no generator; name one that does")


@pytest.mark.parametrize(
    ("layer", "segments", "message"),
    [
        ("single_blocks.0.out", (), ""),
        ("double_blocks.0.text.mlp_in", ["text"], ""),
        ("double_blocks.0.image.mlp_in", ["noisy", "subject"], ""),
        ("double_blocks.0.image.mlp_in", ["noisy"], "subject tokens too; without subject images the pictures are the"),
        ("single_blocks.0.out", ["noisy"], "subject and text tokens too and the pictures are others"),
        ("single_blocks.0.out", ["subject"], "acts on subject tokens only, which the files cannot say"),
    ],
)
def test_what_the_files_cannot_say(layer, segments, message):
    weights = {f"transformer.{layer}.adapters.x.{leaf}": np.ones((2, 2)) for leaf in "ab"}
    # A layer that the adapter leaves as it is says nothing.
    weights |= {f"transformer.single_blocks.0.mlp_in.adapters.x.{leaf}": np.zeros((2, 2)) for leaf in "ab"}
    generator, _ = TINY_FLOW.abstract()
    *told, predicted = generator.lora_notes(weights, segments)
    assert message in "".join(told) and len(told) == bool(message)
    assert predicted == "The base predicts clean latents; FLUX pipelines would take them for velocity."
    as_flux = replace(generator, config=replace(TINY_FLOW, prediction_type="velocity"))
    assert as_flux.lora_notes(weights, segments) == told
