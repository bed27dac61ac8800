"""The search over variants of the generator: trained for the same time, judged on the same scenes, one row each."""

from pathlib import Path

import pytest

from narrative_jax.generators.flow_presets import TINY_FLOW
from narrative_jax.study import generator_search
from narrative_jax.study.generator_search import VARIANTS, Variant, main


@pytest.mark.slow
def test_a_row_for_each_variant(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.setattr(generator_search, "CONFIG", "configs/pretrain.py:tiny")
    monkeypatch.setattr(generator_search, "SCENES", 4)
    monkeypatch.setattr(generator_search, "VARIANTS", {"one, small": Variant(TINY_FLOW), "two": Variant(TINY_FLOW)})
    out = tmp_path / "found.md"
    arguments = ["--minutes=0", "--variants", "one, small", "two", f"--workdir={tmp_path / 'runs'}", f"--out={out}"]
    assert main(arguments) == 0
    lines = [line for line in out.read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0] for row in rows[2:]] == ["one, small", "two"] and len({len(row) for row in rows}) == 1
    assert rows[2][1] == "12" and out.read_text() in capsys.readouterr().out
    assert main(arguments) == 0, "what is finished is not done again"
    assert capsys.readouterr().out.count("done before") == 4


@pytest.mark.parametrize("name", VARIANTS)
def test_the_variants_are_generators(name):
    generator, shapes = VARIANTS[name].preset.abstract()
    tokens, channels = generator.latent_shape
    assert tokens * channels == 40 * 40 * 3
    assert sum(value.size for value in shapes.values()) * 2 <= 10e6, "bytes of bfloat16 weights that may ship"


def test_unknown_variants(capsys):
    assert main(["--variants", "patches of 7"]) == 2
    assert "unknown variant 'patches of 7'" in capsys.readouterr().err
