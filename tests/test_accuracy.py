"""The accuracy stage by hand: how often a reward prefers the picture of a scene that gold prefers."""

import json
from itertools import combinations
from types import MappingProxyType

import numpy as np
import one_entry
import pytest
from ml_collections import ConfigDict

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Candidate, Score
from narrative_jax.data.datasets import write_records

# Two scenes of three pictures and a lonely one, on two aspects.
SCENES = ["a", "b", "a", "b", "a", "b", "lonely"]
GOLD = np.array([[1, 0], [5, 5], [2, 0], [4, 7], [3, 1], [3, 6], [9, 9]], float)
# (0, 2), (0, 4), (2, 4), (1, 3), (1, 5), (3, 5): scene after scene, as the scenes come up first
PAIRS = [pair for scene in "ab" for pair in combinations([i for i, s in enumerate(SCENES) if s == scene], 2)]


@pytest.fixture
def run(tmp_path):
    """run(rewards, **options): numbers of the stage on score entries with these scores [candidates, aspects]."""
    image = np.zeros((2, 2, 3), np.uint8)
    drawn = [Candidate(f"c{row}", scene, image, row, "g") for row, scene in enumerate(SCENES)]
    write_records(tmp_path / "draw" / "candidates", drawn)

    def run(rewards, gold=GOLD, pairs=100, order=1, learned=MappingProxyType({}), aspects=None, **options):
        for name, scores in {"gold": gold, **rewards}.items():
            scores = np.asarray(scores, float).reshape(len(scores), -1)
            records = [Score(f"c{row}", name, tuple(values)) for row, values in enumerate(scores)]
            write_records(tmp_path / name / "scores", records[::order])
            # Statistics of another set, as those of a calibration may be.
            names = [f"{aspects or name} {i}" for i in range(scores.shape[1])]
            saved = {"aspects": names, "mean": [1.0] * scores.shape[1]}
            saved |= {"std": [10.0**i for i in range(scores.shape[1])]}
            (tmp_path / name / "calibration.json").write_text(json.dumps(saved))
        entry = {"stage": "accuracy", "gold": "gold", "sources": tuple(rewards), "pairs": pairs, **options}
        judged = {name: {"stage": "score", "source": "draw"} for name in ("gold", *rewards)}
        trainings = {}
        for name, algorithm in learned.items():
            judged[name] |= {"reward": "trained", "reward_from": f"training of {name}"}
            trainings[f"training of {name}"] = {"stage": "train", "trains": "reward", "algorithm": algorithm}
        config = ConfigDict({"draw": {"stage": "generate"}, **trainings, **judged, "accuracy": entry})
        return one_entry.run(config, "accuracy", tmp_path)

    return run


def by_loop(values, truth):
    """Right ones and pairs that the truth tells apart, one pair at a time."""
    told = [(i, j) for i, j in PAIRS if truth[i] != truth[j]]
    right = sum((values[i] - values[j]) * (truth[i] - truth[j]) > 0 for i, j in told)
    return right, len(told)


def test_gold_agrees_with_itself_and_never_with_its_opposite(run):
    numbers = run({"same": GOLD, "opposite": -GOLD})
    assert numbers["same/overall"] == 1 and numbers["opposite/overall"] == 0
    # Of one aspect alone the whole says less.
    for aspect in ("overall", "gold 0"):
        assert numbers[f"same/{aspect}"] + numbers[f"opposite/{aspect}"] == 1
    alone = run({"first": GOLD[:, :1], "second": GOLD[:, 1:]})
    assert alone["first/gold 0"] == alone["second/gold 1"] == 1
    assert 0 < alone["first/gold 1"] < 1


def test_every_share_is_that_of_the_pairs_of_one_scene(run):
    rng = np.random.default_rng(0)
    rewards = {name: rng.integers(0, 4, (7, width)).astype(float) for name, width in (("one", 1), ("two", 2))}
    numbers = run(rewards)
    standardised = (GOLD - 1) / [1, 10]
    truths = {"overall": standardised.mean(1), "gold 0": GOLD[:, 0], "gold 1": GOLD[:, 1]}
    for name, scores in rewards.items():
        values = ((scores - 1) / 10.0 ** np.arange(scores.shape[1])).mean(1)
        for aspect, truth in truths.items():
            right, told = by_loop(values, truth)
            assert numbers[f"{name}/{aspect}"] == pytest.approx(right / told)
            assert numbers[f"pairs/{aspect}"] == told
    assert [numbers[f"pairs/{aspect}"] for aspect in truths] == [6, 6, 5], "what gold does not tell apart is left out"
    assert len({numbers[f"{name}/{aspect}"] for name in rewards for aspect in truths}) > 2


def test_a_tie_of_the_reward_is_half_right(run):
    half = GOLD[:, :1].copy()
    half[[0, 2]] = 5  # (0, 2) is a tie, and 4 now lies below both
    numbers = run({"constant": np.ones(7), "half": half})
    assert numbers["constant/overall"] == 0.5 and numbers["constant/overall_low"] < 0.5
    assert numbers["half/gold 0"] == 3.5 / 6


def test_scores_are_found_by_candidate(run):
    rng = np.random.default_rng(1)
    rewards = {"one": rng.normal(size=7), "same": GOLD}
    assert run(rewards) == run(rewards, order=-1)


def test_the_first_pairs_are_taken(run):
    """Of those that gold tells apart: on its second aspect (0, 2) is none."""
    values = GOLD[:, 0] * np.where(np.array(SCENES) == "a", 1, -1)
    numbers = run({"split": values}, pairs=3)
    assert numbers["split/gold 0"] == 1 and numbers["pairs/gold 0"] == 3
    assert run({"split": values}, pairs=4)["split/gold 0"] == 3 / 4
    assert run({"split": values})["split/gold 0"] == 3 / 6
    most = run({"split": values}, pairs=5)
    assert most["split/gold 0"] == 3 / 5 and most["split/gold 1"] == 4 / 5 and most["pairs/gold 1"] == 5


def test_intervals_are_wilsons(run):
    numbers = run({"half": np.where(np.array(SCENES) == "a", 1, -1) * GOLD[:, 0]})
    z, n, p = 1.959964, 6, 0.5
    centre, half = (
        (p + z**2 / (2 * n)) / (1 + z**2 / n),
        z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5,
    )
    assert numbers["half/gold 0"] == p
    assert numbers["half/gold 0_low"] == pytest.approx(centre - half, rel=1e-5)
    assert numbers["half/gold 0_high"] == pytest.approx(centre + half, rel=1e-5)


def test_the_table(run, tmp_path, capsys):
    run({"same": GOLD, "opposite": -GOLD})
    table = (tmp_path / "accuracy" / "accuracy.md").read_text()
    assert table in capsys.readouterr().out
    head, line, same, opposite = table.splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in (head, line, same, opposite)]
    assert cells[:2] == [["", "overall", "gold 0", "gold 1"], ["---"] * 4]
    assert cells[2][:2] == ["same", "1.000 [0.610, 1.000]"] and cells[3][:2] == ["opposite", "0.000 [0.000, 0.390]"]


def test_the_leader_is_compared_on_the_same_pairs(run, tmp_path):
    """Against its opposite it is ahead by one wherever scenes are drawn again, against itself by nothing."""
    numbers = run({"same": GOLD, "again": GOLD, "opposite": -GOLD}, leader="same")
    for end in ("", "_low", "_high"):
        assert numbers[f"opposite/gold 0_lead{end}"] == 1 and numbers[f"again/overall_lead{end}"] == 0
    assert not [key for key in numbers if key.startswith("same/") and "lead" in key]
    half = np.where(np.array(SCENES) == "a", 1, -1) * GOLD[:, 0]  # right on scene a alone
    numbers = run({"same": GOLD[:, 0], "half": half}, leader="same")
    found = [numbers[f"half/gold 0_lead{end}"] for end in ("", "_low", "_high")]
    assert found == [0.5, 0, 1], "both scenes, b twice, a twice"
    table = (tmp_path / "accuracy" / "accuracy.md").read_text().splitlines()
    assert "lead of same: gold 0" in table[0] and "+0.500 [+0.000, +1.000]" in table[3] and "–" in table[2]


def test_the_leader_s_ceiling(run):
    numbers = run({"half": np.where(np.array(SCENES) == "a", 1, -1) * GOLD[:, 0], "same": GOLD}, leader="half")
    assert not [key for key in numbers if key.startswith("nibench/")]
    numbers = run({"half": -GOLD, "same": GOLD}, leader="half", ceiling="same")
    for aspect in ("overall", "gold 0", "gold 1"):
        assert numbers[f"nibench/{aspect}/ceiling"] == numbers[f"same/{aspect}"]
        assert numbers[f"nibench/{aspect}/accuracy"] == numbers[f"half/{aspect}"]


def test_given_what_pictures_show(run, tmp_path):
    """Of scene a all pictures but the last show everybody: one pair of it is left, none of b."""
    shown = [1, 1, 1, 0.5, 0.5, 0.5, 1]
    numbers = run({"same": GOLD, "opposite": -GOLD, "shown": shown}, given="shown", leader="same")
    assert numbers["pairs/gold 0"] == 6 and numbers["given/pairs/gold 0"] == 1
    assert numbers["given/same/gold 0"] == 1 and numbers["given/opposite/gold 0"] == 0
    assert "given/opposite/gold 0_lead" not in numbers, "of a single scene there is no interval"
    assert "given/same/gold 1" not in numbers, "gold does not tell that pair apart"
    assert "Given shown:" in (tmp_path / "accuracy" / "accuracy.md").read_text()


@pytest.mark.parametrize("scores", [GOLD, GOLD[:, :1], -GOLD[:, :1]])
def test_given_something_that_is_no_share(run, scores):
    with pytest.raises(InputError, match="given 'shown': it gives one share of 0 to 1"):
        run({"same": GOLD, "shown": scores}, given="shown")


def test_gold_that_tells_nothing_apart(run):
    blind = GOLD.copy()
    blind[:, 1] = 3
    with pytest.raises(InputError, match="gold on gold 1: it tells no pair of pictures of one scene apart; give more"):
        run({"any": GOLD}, gold=blind)


def test_no_scene_with_two_pictures(run, tmp_path):
    image = np.zeros((2, 2, 3), np.uint8)
    write_records(
        tmp_path / "draw" / "candidates", [Candidate(f"c{row}", f"s{row}", image, 0, "g") for row in range(7)]
    )
    with pytest.raises(InputError, match="gold on overall: it tells no pair of pictures of one scene apart"):
        run({"any": GOLD})


def test_a_candidate_without_score(run):
    with pytest.raises(InputError, match=r"any: candidate 'c6' has no score; do it again with --redo=any"):
        run({"any": GOLD[:6]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairs": 0}, "pairs 0: pairs is an integer ≥ 1"),
        ({"sources": ("other",)}, "sources gold of draw, other of elsewhere: they are compared on the pictures of one"),
        ({"gold": "other"}, "sources other of elsewhere, one of draw"),
        ({"sources": ("one", "draw")}, "sources 'draw': it scores no pictures; name score entries"),
        ({"sources": ()}, "sources none: rewards are compared with gold"),
        ({"leader": "two"}, "unknown leader 'two'"),
        ({"leader": "one", "ceiling": "two"}, "unknown ceiling 'two'"),
        ({"ceiling": "one"}, "ceiling 'one': the leader, none, is measured by another"),
        ({"leader": "one", "ceiling": "one"}, "ceiling 'one': the leader, one, is measured by another"),
        ({"given": "other"}, "they are compared on the pictures of one"),
        ({"given": "draw"}, "sources 'draw': it scores no pictures"),
    ],
)
def test_entries_that_cannot_be_compared(change, said):
    judges = {name: {"stage": "score", "source": "draw"} for name in ("gold", "one")}
    judges["other"] = {"stage": "score", "source": "elsewhere"}
    entry = {"stage": "accuracy", "gold": "gold", "sources": ("one",), "pairs": 10, **change}
    config = ConfigDict({"draw": {"stage": "generate", "source": "draw"}, **judges, "accuracy": entry})
    with pytest.raises(InputError, match=said):
        one_entry.check(config, "accuracy")


def test_how_sure_a_trained_reward_is(run, tmp_path):
    """One that is always right lacks what it is not sure of; an opposite one is wrong by all that it is sure of."""
    ranks = 3.0 * GOLD[:, [0, 0]]
    learned = {"same": "reward_modelling", "opposite": "critique", "describes": "describing"}
    rewards = {"same": ranks, "opposite": -ranks, "untold": ranks, "describes": ranks}
    numbers = run(rewards, learned=learned, aspects="gold")
    gaps = np.array([abs(ranks[i, 0] - ranks[j, 0]) for i, j in PAIRS])
    sure = (1 / (1 + np.exp(-gaps))).mean()
    assert numbers["same/gold 0_sure"] == numbers["opposite/gold 0_sure"] == pytest.approx(sure)
    assert numbers["same/gold 0_miscalibration"] == pytest.approx(1 - sure)
    assert numbers["opposite/gold 0_miscalibration"] == pytest.approx(sure)
    assert not {"untold/gold 0_sure", "describes/gold 0_sure", "same/overall_sure"} & numbers.keys()
    table = (tmp_path / "accuracy" / "accuracy.md").read_text()
    assert f"| same     | –       | {sure:.3f}, {1 - sure:.3f} (" in table
    run({"of its own": ranks}, learned={"of its own": "reward_modelling"})
    assert "How sure" not in (tmp_path / "accuracy" / "accuracy.md").read_text()
