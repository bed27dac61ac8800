"""The oracle under controlled damage and against pictures that nobody drew, on reduced studies."""

import numpy as np
import pytest

from narrative_jax.storybook.corruptions import CORRUPTIONS
from narrative_jax.storybook.datasets import drawings
from narrative_jax.storybook.oracle import CRITERIA, MEASURES, judge
from narrative_jax.storybook.render import render
from narrative_jax.study import adversaries, corruption_matrix
from narrative_jax.study.adversaries import BARS, METHODS, NEAR, QUALITY, beyond_chance, climb, families
from narrative_jax.study.corruption_matrix import TRUE_BAR, aspects, failures, measure

IDENTITY = slice(3, 6)


@pytest.fixture(scope="module")
def scenes():
    return drawings("tune", range(48))


@pytest.fixture(scope="module")
def matrix(scenes):
    return measure(*scenes, strengths=(0.5, 1.0))


@pytest.fixture(scope="module")
def strange(scenes):
    """Measures f32[48, 12] of each family of pictures that nobody drew."""
    return {name: judge(pictures, scenes[0]).measures for name, pictures in families(*scenes).items()}


def test_true_pictures_score_high_on_every_aspect(matrix):
    assert (aspects(matrix.truth) >= TRUE_BAR).all()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruption_moves_what_it_may_and_little_else(matrix, kind):
    assert failures(matrix, kind) == []


def test_failures_names_what_rises_spills_and_does_not_fall(matrix):
    changes = np.zeros((2, len(MEASURES)))
    changes[:, CRITERIA.index("count")] = (-0.2, -0.1)
    changes[:, CRITERIA.index("setting")] = -0.9
    effect = corruption_matrix.Effect(10, changes)
    broken = corruption_matrix.Matrix(
        (0.5, 1.0), np.ones(len(MEASURES)), {"drop a character": effect, "recolour": effect}, 1.0
    )
    assert failures(broken, "drop a character") == [
        (0.5, "spills 56.2%"),
        (1.0, "count rises by 0.100"),
        (1.0, "spills 112.5%"),
    ]
    assert failures(broken, "recolour") == [(1.0, "attributes does not fall")]


@pytest.mark.parametrize("family", BARS)
def test_quality_of_pictures_that_nobody_drew_is_low_on_average(strange, family):
    assert strange[family].mean(0)[QUALITY] <= BARS[family]


@pytest.mark.parametrize("family", [name for name in BARS if name != "half-blend"])
def test_quality_of_every_picture_that_nobody_drew_is_low(strange, family):
    assert strange[family][:, QUALITY].max() <= BARS[family]


def test_few_half_blends_pass_for_pictures(strange):
    # A blend with a light picture is a picture in pastel, with a ghost in it.
    quality = strange["half-blend"][:, QUALITY]
    assert quality.mean() <= 0.15 and np.mean(quality > BARS["half-blend"]) <= 0.2


def test_nobody_has_an_identity_where_no_character_is_found(strange):
    for family, measures in strange.items():
        nobody = measures[:, CRITERIA.index("count")] == 0
        assert (measures[nobody, IDENTITY] == 0).all(), family
    for family in ("mean picture", "gaussian noise", "uniform noise", "empty stage"):
        assert (strange[family][:, IDENTITY] == 0).all(), family


@pytest.mark.slow
def test_true_pictures_against_other_scenes_score_as_by_chance():
    for name, (_, difference) in beyond_chance("tune", pairs=256).items():
        assert difference.low <= NEAR and difference.high >= -NEAR, name
        assert abs(difference.estimate) < 0.05, name


@pytest.mark.parametrize("method", METHODS)
def test_climb_never_lowers_the_score_and_returns_the_picture_that_has_it(scenes, method):
    facts, drawing = scenes[0][0], scenes[1]
    climbed = climb(render(drawing[1:2])[0], facts, "attributes", METHODS[method], steps=64)
    assert len(climbed.scores) == 3
    assert (np.diff(climbed.scores) >= 0).all()
    again = judge(climbed.end[None], [facts]).measures[0]
    assert again == pytest.approx(climbed.after, abs=1e-4)
    assert climbed.after[CRITERIA.index("attributes")] == pytest.approx(climbed.scores[-1], abs=1e-6)


@pytest.mark.parametrize("study", [adversaries, corruption_matrix])
def test_bad_option_is_one_line_and_exit_2(study, capsys):
    assert study.main(["--scenes", "0"]) == 2
    assert study.main(["--seed", "-1"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
