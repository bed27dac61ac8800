"""What the page about the embedded generator says."""

import numpy as np
import pytest

from narrative_jax.core.images import to_uint8
from narrative_jax.rewards.oracle import judge_images
from narrative_jax.storybook import drawings, render
from narrative_jax.storybook.datasets import scenes
from narrative_jax.storybook.world import LOCATIONS, PORTRAIT_POSE, POSES, STYLES
from narrative_jax.study.generator_card import by_kind, figures, main

SCENES = 48


def judged(spoil=lambda drawing: None):
    asked = scenes("tune", range(SCENES))
    _, drawing = drawings("tune", range(SCENES))
    spoil(drawing)
    return judge_images(to_uint8(render(drawing)), asked), asked


def test_true_pictures():
    found = figures(*judged())
    assert found["all there, of one"] == found["of two"] == found["nobody besides"] == 1
    assert found["poses copied"] == found["leaks, of two"] == 0 and min(found["P"], found["I"], found["Q"]) > 0.97


def test_copied_poses_and_nobody():
    def copy(drawing):
        drawing.poses[:] = POSES.index(PORTRAIT_POSE)

    def leave_one(drawing):
        drawing.parts[:, 1] = False

    copied, alone = figures(*judged(copy)), figures(*judged(leave_one))
    assert copied["poses copied"] > 0.95 and copied["actions"] < 0.05 and copied["of two"] == 1
    assert alone["of two"] == 0 and alone["all there, of one"] > 0.9


def test_leaks_are_counted_in_pictures_of_two():
    def leak(drawing):
        two = drawing.present.sum(1) == 2
        drawing.identities[two, 0] = drawing.identities[two, 1]

    assert figures(*judged(leak))["leaks, of two"] > 0.5


def test_every_kind_has_its_row():
    rows = {kind: (n, values) for kind, n, values in by_kind(*judged())}
    assert list(rows)[:4] == ["one_character", "two_characters", "seen", "unseen"]
    assert set(rows) >= set(LOCATIONS) | set(STYLES)
    for words in (LOCATIONS, STYLES, ("seen", "unseen")):
        assert sum(rows[word][0] for word in words) == SCENES
    assert all(values[0] == 1 for _, values in rows.values())


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    out = tmp_path / "page.md"
    assert main(["--scenes=4", "--steps=2", "--guidance", "2.5,1", "1,1", f"--out={out}"]) == 0
    page = out.read_text()
    assert "\n| 2.5,1 " in page and "\n| 1,1 " in page and page in capsys.readouterr().out
    assert not np.isnan([float(cell) for cell in page.splitlines()[-4].split(" | ")[2:-1]]).any()


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["--guidance", "2.5"], "it is a pair of scales; write one such as"),
        (["--guidance=2.5,x"], "it is a pair of scales; write one such as"),
        (["--steps=0"], "num_steps 0"),
        (["--scenes=1"], "scenes 1"),
        (["--weights=nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_bad_options(wrong, said, capsys):
    assert main(wrong) == 2
    assert said in capsys.readouterr().err
