"""The benchmarks beside torch run, at sizes that say nothing of speed."""

from pathlib import Path

import pytest

from narrative_jax.models.clip import ClipTextConfig, ClipVisionConfig


@pytest.fixture
def scoring_rate(monkeypatch):
    for library in ("torch", "transformers"):
        pytest.importorskip(library)
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    import scoring_rate

    monkeypatch.setattr(scoring_rate, "matmul_rates", lambda: {"XLA": 100.0, "torch": 50.0})
    return scoring_rate


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
