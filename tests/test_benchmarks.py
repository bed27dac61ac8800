"""The benchmarks beside torch run, at sizes that say nothing of speed."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from narrative_jax.generators.flow_presets import TINY_FLOW
from narrative_jax.models.clip import ClipTextConfig, ClipVisionConfig
from narrative_jax.models.vlm import VlmConfig
from narrative_jax.models.vlm_vision import VisionTowerConfig
from narrative_jax.rewards.nireward_prompts import Room


@pytest.fixture
def benchmark(monkeypatch):
    """benchmark(name, *libraries): its module, on a machine of a known speed."""

    def find(name, *libraries):
        for library in ("torch", *libraries):
            pytest.importorskip(library)
        monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
        module = import_module(name)
        if hasattr(module, "matmul_rates"):
            monkeypatch.setattr(module, "matmul_rates", lambda: {"XLA": 100.0, "torch": 50.0})
        return module

    return find


@pytest.fixture
def scoring_rate(benchmark):
    return benchmark("scoring_rate", "transformers")


@pytest.fixture
def dpo_step(benchmark, monkeypatch):
    module = benchmark("dpo_step", "diffusers", "peft")
    monkeypatch.setattr(module, "SIZES", {"tiny": (TINY_FLOW, 2)})
    monkeypatch.setattr(module, "PARITY", 5e-4)  # of so few pairs, with so small a network's errors
    return module


@pytest.fixture
def tiny(scoring_rate):
    text = ClipTextConfig(max_length=24, width=16, heads=2, blocks=2, mlp_width=24, projection=12)
    vision = ClipVisionConfig(12, 4, width=20, heads=2, blocks=2, mlp_width=28, projection=12)
    return scoring_rate.Size(text, vision, side=18, batch=3, calls=1)


def test_scoring_rate(scoring_rate, tiny):
    table = scoring_rate.report({"tiny": tiny}, rounds=2, compiled=False).splitlines()
    assert [line.split(" | ")[:2] for line in table[2:4]] == [["| tiny", "ours"], ["| tiny", "torch"]]
    assert "3 pictures of 18² a call, seen as 12² in patches of 4², 2 blocks of width 20" in table[5]


def test_scores_that_differ_are_not_timed(scoring_rate, tiny, monkeypatch):
    monkeypatch.setattr(scoring_rate, "CLIP", scoring_rate.CLIP._replace(mean=(0.5, 0.5, 0.5)))
    with pytest.raises(AssertionError, match="scores differ by"):
        scoring_rate.report({"tiny": tiny}, rounds=2, compiled=False)


def test_arithmetic_of_a_picture(scoring_rate, tiny):
    # 9 patches of 48 numbers; 10 tokens; of each 2 x 20 x 20 for query, key, value and output, 2 x 20 x 28 for both
    # matrices of the MLP, 2 x 20 x 10 for weights and values; then 20 x 12.
    block = 10 * (4 * 800 + 2 * 1120 + 2 * 400)
    ends = 9 * 2 * 48 * 20 + 2 * 20 * 12
    assert scoring_rate.picture_flops(tiny.vision, whole=True) == 2 * block + ends
    saved = 9 * (2 * 800 + 2 * 1120 + 2 * 400)
    assert scoring_rate.picture_flops(tiny.vision, whole=False) == 2 * block + ends - saved


@pytest.fixture
def critique_rate(benchmark, monkeypatch):
    module = benchmark("critique_rate", "transformers")
    tower = VisionTowerConfig(patch_size=10, merge=2, width=32, heads=2, blocks=2, mlp_width=64)
    network = VlmConfig(768, 32, 4, 2, 2, 48, tied=True, sections=(1, 1, 2), vision=tower)
    sizes = {"tiny": module.Size(network, Room(side=40, tokens=128, max_subjects=2, critique=6), batch=3, calls=1)}
    monkeypatch.setattr(module, "SIZES", sizes)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated")  # transformers renames it on the way
def test_critique_rate(critique_rate):
    """Critiques and scores of ours and torch's, in both its ways, are compared before they are timed."""
    table = critique_rate.report(critique_rate.SIZES, rounds=2).splitlines()
    names = ["ours", "torch, whole prompts", "torch, shared"]
    assert [line.split(" | ")[:2] for line in table[2:5]] == [["| tiny", name] for name in names]
    assert "3 pictures of 40² a call, up to 2 portraits beside, 2 blocks of width 32, 3 critiques of 6" in table[6]


def test_critiques_and_scores_that_differ_are_not_timed(critique_rate):
    words, scores = np.arange(24).reshape(2, 3, 4), np.arange(6.0).reshape(2, 3)
    jobs = {"ours": lambda: (words, scores), "torch": lambda: (words, scores * 1.0001)}
    assert critique_rate.check_parity(jobs) == pytest.approx(1e-4)
    with pytest.raises(AssertionError, match="critiques of torch differ"):
        critique_rate.check_parity({**jobs, "torch": lambda: (words + 1, scores)})
    with pytest.raises(AssertionError, match="scores differ by"):
        critique_rate.check_parity({**jobs, "torch": lambda: (words, scores + 0.1)})
    with pytest.raises(AssertionError, match="all alike"):
        critique_rate.check_parity({**jobs, "ours": lambda: (0 * words, scores)})


@pytest.mark.slow
def test_dpo_step(dpo_step):
    """Losses and gradients of ours and torch's are compared on the way."""
    table = dpo_step.report(rounds=1).splitlines()
    names = ["ours, cached", "torch, cached", "ours", "torch"]
    assert [line.split(" | ")[:2] for line in table[2:6]] == [["| tiny", name] for name in names]
    assert "25 noisy + 16 text + 2 × 9 subject tokens, 2 pairs" in table[7]


@pytest.mark.slow
def test_steps_that_differ_are_not_timed(dpo_step, monkeypatch):
    monkeypatch.setattr("torch_flux.turn", lambda x, rotation: x)  # torch without positions
    with pytest.raises(AssertionError, match="losses differ by"):
        dpo_step.report(rounds=1)


@pytest.mark.slow
def test_arithmetic_of_a_step(dpo_step):
    """Of 2 blocks of width 32, 2 pairs, 41 tokens beside 2 × 9 of subjects, as XLA counts it but for the ends."""
    generator, *_ = dpo_step.example(TINY_FLOW, 2)
    flops = dpo_step.step_flops(TINY_FLOW, generator._positions, 2, subject_forwards=1)
    width, main, subject = 32, 41, 18
    rows = 3 * 24 * width**2 * main + 4 * 4 * width * main * (main + subject) + 3 * 36 * width * 16 * main
    assert flops == 2 * 2 * (2 * rows + 24 * width**2 * subject + 4 * width * subject * 9)
    more = dpo_step.step_flops(TINY_FLOW, generator._positions, 2, subject_forwards=4) - flops
    assert more == 2 * 2 * 3 * (24 * width**2 * subject + 4 * width * subject * 9)


@pytest.fixture
def flux_step(benchmark):
    return benchmark("flux_step", "diffusers", "peft")


@pytest.mark.slow
def test_flux_step_is_that_of_torch(flux_step, capsys):
    flux_step.compare()
    assert "of torch's" in json.loads(capsys.readouterr().out)["parity"]


@pytest.mark.slow
def test_a_side_that_fails_costs_no_other(flux_step, monkeypatch):
    """What the processes of the sides tell becomes one table; none of it is measured again."""
    steps = {"first": 9.0, "seconds": [1.0, 2.0, 3.0], "peak": 2**31}
    told = {
        "parity": ([{"parity": "close"}], ""),
        "ours": ([{"library": "XLA", "rate": 4e12}, {"variant": "ours", **steps, "seconds": [1.0, 1.0, 1.0]}], ""),
        "torch": ([{"variant": "torch, eager", **steps}], "torch failed: out of memory"),
    }
    monkeypatch.setattr(flux_step, "lines_of", lambda child, arguments: told[child])
    table = flux_step.report(SimpleNamespace(only=None, side=0, tiny=True, attention="auto")).splitlines()
    assert table[2].startswith("| ours | 1.000 [1.000, 1.000] | 2.00 | 2.00 | ") and table[2].endswith(" | 2.0 | 9.0 |")
    assert table[3].startswith("| torch, eager | 2.000 [1.000, 3.000] | 1.00 | 1.00 | ")
    assert "- Tiny, float32, before: close." in table and table[-1] == "- torch failed: out of memory"


def test_sides_that_differ_are_not_timed(flux_step, monkeypatch):
    monkeypatch.setattr(flux_step, "lines_of", lambda child, arguments: ([], "parity failed: losses differ"))
    with pytest.raises(SystemExit, match="losses differ"):
        flux_step.report(SimpleNamespace(only=None, side=0, tiny=True, attention="auto"))


@pytest.fixture
def refl_step(benchmark, tiny, monkeypatch):
    module = benchmark("refl_step", "diffusers", "peft", "transformers")
    clip = replace(tiny, vision=replace(tiny.vision, image_size=40, patch_size=8), side=40)
    monkeypatch.setattr(module, "SIZES", {"tiny": module.Size(TINY_FLOW, clip, 2)})
    return module


@pytest.mark.slow
def test_refl_step(refl_step):
    """Losses and gradients of ours and torch's are compared on the way."""
    table = refl_step.report(rounds=1).splitlines()
    assert [line.split(" | ")[:2] for line in table[2:4]] == [["| tiny", "ours"], ["| tiny", "torch"]]
    assert "2 pictures of 40² in patches of 8², width 32; CLIP's tower of 2 blocks of width 20" in table[5]


@pytest.mark.slow
def test_rewards_of_other_pictures_are_not_timed(refl_step, monkeypatch):
    decoded = refl_step.TorchReFL._decoded
    monkeypatch.setattr(refl_step.TorchReFL, "_decoded", lambda self, latents: decoded(self, latents).flip(-1))
    with pytest.raises(AssertionError, match="differ by"):
        refl_step.report(rounds=1)
