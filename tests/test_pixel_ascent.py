"""Rewards driven by their gradient, and gold beside them."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from narrative_jax.core.images import to_float
from narrative_jax.models.shipped import EMBEDDED
from narrative_jax.rewards.base import WEIGHTS
from narrative_jax.rewards.nireward_files import SHIPPED
from narrative_jax.rewards.oracle import judge_images
from narrative_jax.storybook import drawings, render
from narrative_jax.storybook.datasets import scenes
from narrative_jax.study import pixel_ascent
from narrative_jax.study.pixel_ascent import STEPS, STRIDE, ascend, main, report, rewards

ENCODERS = EMBEDDED / "encoders"


class Red:
    """How red a picture is."""

    params: ClassVar[dict] = {"weight": jnp.float32(2)}

    def encode(self, scenes):
        return np.zeros((len(scenes), 1), np.float32)

    def score(self, params, images, context):
        return params["weight"] * images[..., :1].mean((1, 2)) + context


@pytest.fixture(scope="module")
def true():
    _, drawing = drawings("tune", range(6))
    return np.uint8((render(drawing) + 1) * 127.5), scenes("tune", range(6))


def test_each_step_is_as_long_and_goes_uphill(true):
    images, asked = true
    grey = np.full_like(images, 127)
    found = ascend(Red(), grey, asked)
    assert list(found) == [0, *STEPS]
    for number, (pictures, scores) in found.items():
        moved = to_float(pictures) - to_float(grey)
        np.testing.assert_allclose(moved[..., 0], min(number * STRIDE * 3**0.5, 1 - to_float(grey).max()), atol=0.01)
        assert np.abs(moved[..., 1:]).max() == 0, "what the reward does not see stays"
        np.testing.assert_allclose(scores, 2 * to_float(pictures)[..., 0].mean((1, 2)), atol=0.02)


def test_the_table_says_what_gold_gains(true, monkeypatch):
    images, asked = true
    rows = report({"red": Red()}, images, asked).splitlines()
    assert len(rows) == 2 + len(STEPS) and len({row.count("|") for row in rows}) == 1
    last = [cell.strip() for cell in rows[-1].split("|")[1:-1]]
    before, after = (judge_images(each, asked).aspects for each in (images, ascend(Red(), images, asked)[STEPS[-1]][0]))
    assert last[1] == str(STEPS[-1])
    assert last[5:8] == [f"{value:+.3f}" for value in (after - before).mean(0)]
    assert float(last[4]) > 0 and last[3].count("→") == 1


@pytest.mark.slow
def test_rewards_are_made_of_the_files_of_a_folder(true):
    images, asked = true
    made = rewards(ENCODERS)
    assert len(made) == 4 and all(each.differentiable for each in made.values())
    scores = made["identity, IResNet"]
    assert scores.score(scores.params, to_float(images), scores.encode(asked)).shape == (6, 1)


@pytest.mark.slow
def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pixel_ascent, "STEPS", (1,))
    out = tmp_path / "page.md"
    assert main(["--scenes=4", f"--out={out}"]) == 0
    page = out.read_text()
    assert page.count("\n| ") == 6 and "By the encoders that ship" in page and page in capsys.readouterr().out


@pytest.mark.slow
def test_nireward_is_driven_with_its_critiques_and_without(monkeypatch, capsys):
    """The one that ships, by the path of its weights."""
    monkeypatch.setattr(pixel_ascent, "STEPS", (1,))
    weights = SHIPPED / WEIGHTS
    assert main(["--scenes=2", "--encoders", f"--nireward={weights}", f"--silent={weights}"]) == 0
    writing, silent = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| NIReward"))
    assert "at once" in silent and writing.split("|")[4] != silent.split("|")[4]


@pytest.mark.parametrize(
    "wrong, said",
    [
        ("--scenes=1", "scenes 1"),
        ("--encoders=nowhere", "no such folder"),
        ("--nireward=nowhere", "no such file"),
    ],
)
def test_bad_options(wrong, said, capsys):
    assert main([wrong]) == 2
    assert said in capsys.readouterr().err
