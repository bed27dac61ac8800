"""The stage that takes of several pictures the one that a reward likes best."""

import json

import numpy as np
import one_entry
import pytest
from ml_collections import ConfigDict

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Candidate, Score
from narrative_jax.data.datasets import write_records

SCENES = ["a", "b", "a", "b", "a", "b", "a", "b", "b", "a"]  # five pictures of each
GOLD = np.array([[1, 0], [5, 5], [2, 0], [4, 7], [3, 1], [3, 6], [9, 9], [0, 1], [2, 2], [8, 1]], float)


@pytest.fixture
def run(tmp_path):
    """run(rewards, **options): numbers of the stage on score entries with these scores [candidates, aspects]."""

    def run(rewards, scenes=tuple(SCENES), **options):
        image = np.zeros((2, 2, 3), np.uint8)
        drawn = [Candidate(f"c{row}", scene, image, row, "g") for row, scene in enumerate(scenes)]
        write_records(tmp_path / "draw" / "candidates", drawn)
        for name, scores in {"gold": GOLD, **rewards}.items():
            records = [Score(f"c{row}", name, tuple(values)) for row, values in enumerate(scores[: len(scenes)])]
            write_records(tmp_path / name / "scores", records)
            saved = {"aspects": [f"{i}" for i in range(scores.shape[1])]}
            saved |= {"mean": [0.0] * scores.shape[1], "std": [10.0**i for i in range(scores.shape[1])]}
            (tmp_path / name / "calibration.json").write_text(json.dumps(saved))
        judged = {name: {"stage": "score", "source": "draw"} for name in ("gold", *rewards)}
        entry = {"stage": "best_of", "gold": "gold", "sources": tuple(rewards), **options}
        return one_entry.run(ConfigDict({"draw": {"stage": "generate"}, **judged, "best": entry}), "best", tmp_path)

    return run


def by_loop(scores, size):
    """What choosing gains, one group at a time."""
    gains = []
    for scene in "ab":
        rows = [row for row, each in enumerate(SCENES) if each == scene]
        groups = [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]
        best = [max(group, key=lambda row: (scores[row].mean(), -row)) for group in groups]
        gains.append(
            np.mean([GOLD[row].mean() for row in best])
            - np.mean([GOLD[row].mean() for group in groups for row in group])
        )
    return np.mean(gains)


def test_gains_are_those_of_a_loop(run):
    rewards = {"like": GOLD + np.random.default_rng(0).normal(size=GOLD.shape), "unlike": -GOLD[:, :1]}
    numbers = run(rewards, leader="like")
    standardised = {name: scores / 10.0 ** np.arange(scores.shape[1]) for name, scores in rewards.items()}
    assert by_loop(standardised["like"], 2) != by_loop(rewards["like"], 2)
    for name, scores in {"gold": GOLD, **standardised}.items():
        for size in (2, 4):
            assert numbers[f"{name}/{size}"] == pytest.approx(by_loop(scores, size))
            assert numbers[f"{name}/{size}_low"] <= numbers[f"{name}/{size}"] <= numbers[f"{name}/{size}_high"]
    assert numbers["gold/4"] > numbers["gold/2"] > 0 > numbers["unlike/4"]
    assert numbers["unlike/4_lead"] == pytest.approx(numbers["like/4"] - numbers["unlike/4"])
    assert "like/4_lead" not in numbers and "gold/8" not in numbers


def test_who_likes_all_alike_gains_what_comes_first(run):
    assert run({"constant": np.ones((10, 1))})["constant/4"] == pytest.approx(by_loop(np.ones((10, 1)), 4))


@pytest.mark.parametrize(
    ("scenes", "options", "message"),
    [
        (["a"] * 10, {}, "10 pictures of 1 scenes"),
        (list("abcdefghij"), {}, "10 pictures of 10 scenes"),
        ([*SCENES[:-1], "b"], {}, "4 pictures of scene 'a', 6 of 'b'"),
        (SCENES, {"leader": "who"}, "leader 'who'"),
        (SCENES, {"sources": ()}, "sources none"),
        (SCENES, {"gold": "draw"}, "it scores no pictures"),
    ],
)
def test_bad_input(run, scenes, options, message):
    with pytest.raises(InputError, match=message):
        run({"like": GOLD}, scenes, **options)
