import json
from itertools import combinations

import numpy as np
import one_entry
import pytest
from ml_collections import ConfigDict

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import write_json
from narrative_jax.core.records import Candidate, Preference, Score
from narrative_jax.data.datasets import open_records, write_records
from narrative_jax.data.screening import RULES, draw_pairs, select_pairs, shuffle_labels, standardise
from narrative_jax.runs.entries import options_of
from narrative_jax.stages import screen

# One prompt of four candidates by hand, means 2, 1, 1, 0; and a second one of two.
SCORES = np.array([[3.0, 2, 1], [2, 1, 0], [1, 2, 0], [0, 0, 0], [5, 5, 4], [4, 4, 5]])
PROMPTS = np.array([0, 0, 0, 0, 1, 1])
GOLDEN = {
    "dominance": [(0, 1), (0, 3)],
    "pareto": [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)],
    "majority": [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3), (4, 5)],
    "average": [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3), (4, 5)],
    "best_worst": [(0, 3), (4, 5)],
}


def listed(pairs):
    return list(zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_golden(rule):
    pairs = select_pairs(SCORES, PROMPTS, rule=rule)
    assert listed(pairs) == GOLDEN[rule]
    assert pairs.left == {"all": 7, rule: len(GOLDEN[rule])}
    assert pairs.gap == pytest.approx([SCORES[i].mean() - SCORES[j].mean() for i, j in GOLDEN[rule]])


def test_rejection_sampling_looks_at_the_chosen_on_every_aspect():
    pairs = select_pairs(SCORES, PROMPTS, rule="pareto", thresholds=(1.5, 0.5, -1))
    assert listed(pairs) == [(0, 1), (0, 2), (0, 3), (1, 3)]
    assert pairs.left == {"all": 7, "pareto": 5, "rejection": 4}
    strictly = select_pairs(SCORES, PROMPTS, rule="pareto", thresholds=(3, 0, 0))
    assert listed(strictly) == []
    assert strictly.left == {"all": 7, "pareto": 5, "rejection": 0}


def test_the_cap_keeps_the_largest_gaps_of_each_prompt():
    pairs = select_pairs(SCORES, PROMPTS, rule="average", max_pairs_per_prompt=2)
    assert listed(pairs) == [(0, 1), (0, 3), (4, 5)]
    assert pairs.left == {"all": 7, "average": 6, "cap": 3}


def by_loop(scores, prompts, rule):
    """The definitions of the rules, one pair at a time."""
    better = {
        "dominance": lambda a, b: all(a > b),
        "pareto": lambda a, b: all(a >= b) and any(a > b),
        "majority": lambda a, b: sum(a > b) > sum(b > a),
        "average": lambda a, b: a.sum() > b.sum(),
        "best_worst": lambda a, b: a.sum() > b.sum(),
    }[rule]
    found = []
    for prompt in set(prompts):
        rows = [row for row in range(len(prompts)) if prompts[row] == prompt]
        if rule == "best_worst":  # of equals the last is best, the first worst
            totals = scores[rows].sum(1)
            rows = sorted({rows[int(np.argmin(totals))], rows[len(rows) - 1 - int(np.argmax(totals[::-1]))]})
        for i, j in combinations(rows, 2):
            found += [(i, j)] if better(scores[i], scores[j]) else [(j, i)] if better(scores[j], scores[i]) else []
    return sorted(found)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("levels", [3, 1000], ids=["many ties", "few ties"])
def test_every_rule_is_its_definition(rule, levels):
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(levels, size=(30, 3)).astype(float)
        prompts = rng.choice(["b", "a", "d", "c", "lonely"], 30, p=[0.3, 0.3, 0.2, 0.15, 0.05])
        pairs = select_pairs(scores, prompts, rule=rule)
        assert listed(pairs) == by_loop(scores, prompts.tolist(), rule)


@pytest.mark.parametrize("rule", ["dominance", "pareto", "majority", "average"])
def test_turning_the_scores_round_turns_the_pairs_round(rule):
    scores = np.random.default_rng(1).integers(5, size=(40, 3)).astype(float)
    prompts = np.arange(40) // 4
    pairs, turned = select_pairs(scores, prompts, rule=rule), select_pairs(-scores, prompts, rule=rule)
    assert sorted((j, i) for i, j in listed(pairs)) == listed(turned)
    assert len(pairs) > 5


def test_rules_are_nested():
    scores = np.random.default_rng(2).integers(4, size=(200, 3)).astype(float)
    found = {rule: set(listed(select_pairs(scores, np.arange(200) // 4, rule=rule))) for rule in RULES}
    assert found["dominance"] < found["pareto"] < found["majority"] & found["average"]
    assert found["best_worst"] < found["average"]
    # Of three candidates with unrelated aspects a quarter of the pairs are strictly ordered: 2 · (1/2)³.
    free = np.random.default_rng(3).random((8000, 3))
    assert len(select_pairs(free, np.arange(8000) // 4)) / 12000 == pytest.approx(0.25, abs=0.02)


def test_equal_scores_make_no_pair():
    for rule in RULES:
        assert len(select_pairs(np.ones((8, 3)), np.arange(8) // 4, rule=rule)) == 0


def test_nothing_to_compare():
    pairs = select_pairs(SCORES[:3], [0, 1, 2], thresholds=(0, 0, 0), max_pairs_per_prompt=1)
    assert pairs.left == {"all": 0, "dominance": 0, "rejection": 0, "cap": 0}


def test_shuffled_labels_keep_the_pairs_and_their_gaps():
    pairs = select_pairs(np.random.default_rng(0).random((4000, 3)), np.arange(4000) // 4)
    shuffled = shuffle_labels(pairs, seed=0)
    assert [sorted(p) for p in listed(shuffled)] == [sorted(p) for p in listed(pairs)]
    np.testing.assert_array_equal(shuffled.gap, pairs.gap)
    assert np.mean(shuffled.chosen != pairs.chosen) == pytest.approx(0.5, abs=0.05)
    assert listed(shuffle_labels(pairs, seed=0)) == listed(shuffled) != listed(shuffle_labels(pairs, seed=1))


def test_pairs_by_lot_are_some_of_them_in_order():
    pairs = select_pairs(np.random.default_rng(0).random((4000, 3)), np.arange(4000) // 4)
    drawn = draw_pairs(pairs, 100, seed=0)
    places = [listed(pairs).index(pair) for pair in listed(drawn)]
    assert len(places) == 100 and places == sorted(set(places)) and drawn.left == {**pairs.left, "lot": 100}
    np.testing.assert_array_equal(drawn.gap, pairs.gap[places])
    assert listed(draw_pairs(pairs, 100, seed=1)) != listed(drawn) == listed(draw_pairs(pairs, 100, seed=0))
    assert listed(draw_pairs(pairs, 10**6, seed=0)) == listed(pairs)


def test_standardised_scores():
    scores = standardise([[1, 10, 7], [3, 30, 7]], mean=(2, 10, 7), std=(0.5, 20, 0))
    np.testing.assert_allclose(scores, [[-2, 0, 0], [2, 1, 0]])
    with pytest.raises(InputError, match=r"2 means and 2 deviations: the scores have 3 aspects"):
        standardise(SCORES, (0, 0), (1, 1))


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (SCORES, {"rule": "dominanse"}, r"unknown rule 'dominanse'.*did you mean 'dominance'"),
        (SCORES, {"max_pairs_per_prompt": -1}, "max_pairs_per_prompt -1"),
        (SCORES, {"thresholds": (0, 0)}, r"thresholds \(0, 0\): the scores have 3 aspects"),
        (np.where(SCORES == 4, np.inf, SCORES), {}, "candidate 4: scores are finite numbers"),
    ],
)
def test_bad_input(scores, options, message):
    with pytest.raises(InputError, match=message):
        select_pairs(scores, PROMPTS, **options)


@pytest.fixture
def context(tmp_path):
    """A screen entry behind a finished score entry with the scores above."""
    options = dict(rule="pareto", rejection=False, thresholds=(0.0, 0.0, 0.0), max_pairs_per_prompt=0)
    config = ConfigDict(
        {
            "seed": 0,
            "on_no_pairs": "stop",
            "draw": {"stage": "generate"},
            "judge": {"stage": "score", "source": "draw", "reward": "raters"},
            "screen": {"stage": "screen", "source": "judge", "shuffle_labels": False, **options},
        }
    )
    image = np.zeros((2, 2, 3), np.uint8)
    write_records(
        tmp_path / "draw" / "candidates",
        [Candidate(f"c{row}", f"scene {prompt}", image, row, "g") for row, prompt in enumerate(PROMPTS)],
    )
    write_records(
        tmp_path / "judge" / "scores", [Score(f"c{row}", "r", tuple(SCORES[row])) for row in range(len(SCORES))[::-1]]
    )
    (tmp_path / "screen").mkdir()

    def build(**changes):
        changed = config.copy_and_resolve_references()
        for key, value in changes.items():
            (changed if key in changed or key == "few" else changed.screen)[key] = value
        one_entry.check(changed, "screen")
        return one_entry.entry(changed, "screen", tmp_path)

    return build


def run(context):
    return screen.run(context, options_of(context))


def preferences(context):
    return list(open_records(context.folder / "preferences", Preference))


def test_the_stage_writes_preferences_and_counts(context):
    summary = run(context())
    assert summary == {
        "candidates": 6,
        "prompts": 2,
        "pairs": 5,
        "pairs_per_prompt": 2.5,
        "considered": 7,
        "removed/pareto": 2,
        "accept/pareto": 5 / 7,
    }
    found = preferences(context())
    assert sorted((p.chosen_id, p.rejected_id) for p in found) == [(f"c{i}", f"c{j}") for i, j in GOLDEN["pareto"]]
    assert all(p.aspect == "overall" and not p.tie for p in found)
    gaps = {(p.chosen_id, p.rejected_id): p.gap for p in found}
    assert gaps["c0", "c1"] == pytest.approx((1 / SCORES.std(0)).mean(), rel=1e-6)


def test_the_stage_uses_the_rewards_calibration(context):
    calibration = {"mean": [2.5, 0, 0], "std": [2, 1, 1]}
    (context().path("judge") / "calibration.json").write_text(json.dumps(calibration))
    assert run(context(rejection=True))["removed/rejection"] == 2
    found = preferences(context())
    assert {p.chosen_id for p in found} == {"c0"}
    assert {p.rejected_id: p.gap for p in found} == pytest.approx({"c1": 2.5 / 3, "c2": 2 / 3, "c3": 4.5 / 3}, rel=1e-6)


def test_the_stage_shuffles_labels(context):
    run(context())
    straight = preferences(context())
    run(context(shuffle_labels=True))
    shuffled = preferences(context())
    assert [p.gap for p in shuffled] == [p.gap for p in straight]
    assert [{p.chosen_id, p.rejected_id} for p in shuffled] == [{p.chosen_id, p.rejected_id} for p in straight]
    assert [p.chosen_id for p in shuffled] != [p.chosen_id for p in straight]


def test_shuffles_of_two_seeds_differ(context):
    found = []
    for seed in (0, 1, 0):
        run(context(shuffle_labels=True, seed=seed))
        found.append([each.chosen_id for each in preferences(context())])
    assert found[0] == found[2] != found[1]


def test_as_many_pairs_as_another_entry_left(context):
    all_of_them = run(context(rule="average"))["pairs"]
    few = {"stage": "screen", "source": "judge", "rule": "dominance"}
    (context().workdir / "few").mkdir()
    write_json(context().workdir / "few" / "manifest.json", {"stage": "screen", "summary": {"pairs": 2}})
    summary = run(context(few=few, rule="average", as_many_as="few"))
    assert summary["pairs"] == len(preferences(context())) == 2 < all_of_them
    assert summary["removed/lot"] == all_of_them - 2
    for wrong in ("screen", "judge"):
        with pytest.raises(InputError, match=f"unknown screen entry '{wrong}'"):
            context(few=few, as_many_as=wrong)


def test_preferences_on_one_aspect_bear_its_name(context):
    """Chosen, counted and weighed by that aspect's scores alone."""
    summary = run(context(aspects=("visual_quality",), rule="average"))
    found = preferences(context())
    assert summary["pairs"] == len(found) == 4 and {p.aspect for p in found} == {"visual_quality"}
    last = SCORES[:, 2]
    expected = {
        (f"c{i}", f"c{j}") for i in range(6) for j in range(6) if PROMPTS[i] == PROMPTS[j] and last[i] > last[j]
    }
    assert {(p.chosen_id, p.rejected_id) for p in found} == expected
    assert [p.gap for p in found] == pytest.approx([1 / last.std()] * 4, rel=1e-6)


def test_several_aspects_count_together(context):
    chosen = ("visual_quality", "prompt_following")
    run(context(aspects=chosen, rule="dominance"))
    found = preferences(context())
    pairs = select_pairs(SCORES[:, [2, 0]], PROMPTS, rule="dominance")
    assert sorted((p.chosen_id, p.rejected_id) for p in found) == [(f"c{i}", f"c{j}") for i, j in listed(pairs)]
    assert {p.aspect for p in found} == {"overall"} and len(found) != len(GOLDEN["dominance"])
    # One threshold for each, in the order given: the chosen one is at (-0.3, 0.3).
    for thresholds, removed in (((-0.6, 0.0), 0), ((0.0, -0.6), 3)):
        rejecting = dict(rejection=True, thresholds=thresholds, on_no_pairs="skip")
        summary = run(context(aspects=chosen, rule="dominance", **rejecting))
        assert summary["removed/rejection"] == removed


def test_no_pair_left(context):
    nothing = dict(rule="dominance", rejection=True, thresholds=(9.0, 0.0, 0.0))
    account = "no pair left: 7 pairs, dominance removed 5 of 7, rejection removed 2 of 2"
    with pytest.raises(InputError, match=account):
        run(context(**nothing))
    summary = run(context(**nothing, on_no_pairs="skip"))
    assert summary["pairs"] == 0 and summary["accept/rejection"] == 0
    assert not (context().folder / "preferences").exists()


def test_scores_of_other_candidates(context):
    write_records(context().path("judge") / "scores", [Score("c9", "r", (0.0, 0.0, 0.0))])
    with pytest.raises(InputError, match=r"judge: candidate 'c9' is unknown; do it again with --redo=judge"):
        run(context())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "dominanse"}, "did you mean 'dominance'"),
        ({"on_no_pairs": "go"}, "unknown on_no_pairs 'go'"),
        ({"max_pairs_per_prompt": -1}, "max_pairs_per_prompt -1"),
        ({"aspects": ("visual_qualty",)}, "unknown aspect 'visual_qualty': .*did you mean 'visual_quality'"),
        (
            {"aspects": ("visual_quality",), "rejection": True},
            r"thresholds \(0.0, 0.0, 0.0\): aspects are visual_quality; give one for each",
        ),
        ({"thresholds": (0.0,), "rejection": True}, r"thresholds \(0.0,\): aspects are prompt_following, identity_c"),
    ],
)
def test_options_are_checked_before_anything_runs(context, changes, message):
    with pytest.raises(InputError, match=message):
        context(**changes)
