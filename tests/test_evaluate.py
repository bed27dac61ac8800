"""Arms that are compared with each other: scene by scene, and only those that have values."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from one_entry import check, run

from narrative_jax import pipeline
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_uint8
from narrative_jax.runs import arms
from narrative_jax.stages import evaluate
from narrative_jax.statistics import paired_bootstrap
from narrative_jax.statistics.comparison import FEWEST, Judged, between, compare
from narrative_jax.storybook import ASPECTS, drawings, render

CONFIG = Path(__file__).parents[1] / "configs" / "adpo.py"
# Aspects with unequal numbers of criteria: their mean is not that of all criteria.
COLUMNS = {"prompt_following": ("count", "actions", "setting"), "visual_quality": ("cleanness",)}


@pytest.fixture
def values():
    """Three arms of 40 scenes, four criteria and then two aspects; scenes differ more than arms do."""
    rng = np.random.default_rng(0)
    scenes, gains = rng.normal(size=(40, 6)), {"a": 0.1, "b": 0.0, "c": 0.3}
    return {arm: Judged(scenes + gain + 0.1 * rng.normal(size=(40, 6))) for arm, gain in gains.items()}


def of(numbers, key):
    return tuple(numbers[f"{key}/{end}"] for end in ("diff", "diff_low", "diff_high"))


def test_differences_of_a_pair_by_hand(values):
    numbers = between(values, (("a", "b"), ("b", "c")), COLUMNS, "gold", {})
    names = (*COLUMNS, "mean_of_aspects")
    ends = ("diff", "diff_low", "diff_high")
    assert set(numbers) == {f"gold/{pair}/{n}/{e}" for pair in ("a_over_b", "b_over_c") for n in names for e in ends}
    for first, second in ("ab", "bc"):
        one, other = (values[arm].values[:, 4:].T for arm in (first, second))
        for name, after, before in zip(names, (*one, one.mean(0)), (*other, other.mean(0)), strict=True):
            diff, low, high = of(numbers, f"gold/{first}_over_{second}/{name}")
            assert diff == pytest.approx((after - before).mean()) and low < diff < high
            assert (diff, low, high) == pytest.approx(paired_bootstrap(after, before))


def test_the_same_scenes_are_compared(values):
    """What all scenes gain alike has no spread, however far the scenes lie apart."""
    shifted = values | {"a": Judged(values["b"].values + 0.25)}
    for key, value in between(shifted, (("a", "b"),), COLUMNS, "gold", {}).items():
        assert value == pytest.approx(0.25), key


def test_an_arm_without_values_is_left_out(values):
    """As after training that was skipped."""
    pairs = (("a", "lost"), ("lost", "b"), ("a", "b"))
    assert between(values, pairs, COLUMNS, "gold", {}) == between(values, pairs[2:], COLUMNS, "gold", {}) != {}


def test_no_mean_of_aspects_on_different_scales(values):
    columns = dict.fromkeys(("sharpness", "exposure", "contrast", "colour", "grain", "noise"), ())
    numbers = between(values, (("a", "b"),), columns, "reward", {})
    assert {key.split("/")[2] for key in numbers} == set(columns)
    assert numbers["reward/a_over_b/contrast/diff"] == pytest.approx(
        (values["a"].values - values["b"].values)[:, 2].mean()
    )


def complete(values, **changes):
    """The arms with everybody in all pictures, but where `changes` says otherwise, and a ceiling."""
    everywhere = np.ones(40, bool)
    arms = {arm: Judged(each.values, changes.get(arm, everywhere)) for arm, each in values.items()}
    return {"baseline": arms["b"], "a": arms["a"], "ceiling": Judged(values["c"].values + 1)}


def test_groups_are_the_same_comparison_of_fewer_scenes(values):
    many, few = np.arange(40) < FEWEST, np.arange(40) < FEWEST - 1
    arms = complete(values, a=np.arange(40) > 2, b=np.arange(40) < 35)
    numbers = compare(arms, COLUMNS, "gold", {"many": many, "few": few})
    for group, rows in (("many", many), ("given_presence", (np.arange(40) > 2) & (np.arange(40) < 35))):
        part = {name: Judged(arm.values[rows]) for name, arm in arms.items()}
        alone = compare(part, COLUMNS, "gold", {})
        assert numbers[f"gold/{group}/scenes"] == rows.sum() >= FEWEST
        assert all(numbers[key.replace("gold", f"gold/{group}", 1)] == value for key, value in alone.items())
    assert [key for key in numbers if "/few/" in key] == ["gold/few/scenes"]
    pairs = between(arms, (("a", "baseline"),), COLUMNS, "gold", {"many": many, "few": few})
    for group in ("", "many/", "given_presence/"):
        for aspect in COLUMNS:
            assert of(pairs, f"gold/a_over_baseline/{group}{aspect}") == of(numbers, f"gold/{group}{aspect}")
    assert "gold/a_over_baseline/few/mean_of_aspects/diff" not in pairs


def test_the_share_of_the_gap_has_an_interval(values):
    arms = complete(values)
    numbers = compare(arms, COLUMNS, "gold", {})
    before, after, ceiling = (arms[name].values[:, 4:].mean(0) for name in ("baseline", "a", "ceiling"))
    assert numbers["gold/gap_closed"] == pytest.approx(((after - before) / (ceiling - before)).mean())
    assert numbers["gold/gap_closed_low"] < numbers["gold/gap_closed"] < numbers["gold/gap_closed_high"]


@pytest.mark.slow
def test_the_pairs_of_the_configs():
    controls = pipeline.completed(load(f"{CONFIG}:controls"))
    pipeline.check(controls)
    others = ("sft", "shuffled", "presence", "dominance", "average", "prompt", "pairs_alone")
    same_seed = [(f"adpo_{seed}", f"{other}_{seed}") for seed in range(3) for other in others]
    assert sorted(controls.evaluate.compare) == sorted(same_seed)
    assert load(str(CONFIG)).evaluate.compare == ()


@pytest.mark.slow
def test_recipes_have_the_same_pairs_and_compute():
    config = pipeline.completed(load(f"{CONFIG}:recipes"))
    pipeline.check(config)
    trained = {name: config[name] for name in config.stages if config[name].stage == "train"}
    assert {(entry.source, entry.batch_size) for entry in trained.values()} == {("screen", 16)}
    # A picture of SFT costs 3/8 of a pair.
    costs = {name: entry.total_steps * (1.0 if entry.algorithm == "dpo" else 3 / 8) for name, entry in trained.items()}
    costs["then_half"] += costs.pop("sft_first")
    assert {cost for name, cost in costs.items() if name.startswith("longer_")} == {300}
    assert {cost for name, cost in costs.items() if not name.startswith("longer_")} == {150}


def test_which_arms_there_are():
    config = pipeline.completed(load(f"{CONFIG}:controls"))
    config.evaluate.compare = (("best_of_4", "guidance"), ["baseline", "shuffled_2"])
    check(config, "evaluate")
    for wrong, said in (
        (("adpo_0", "baseline"), "evaluate.compare[0] 'adpo_0': it is a list of 2: a text, a text; give"),
        ((("guidance", "best_of_3"),), "unknown arm in compare 'best_of_3': .*'best_of_4'"),
    ):
        config.evaluate.compare = wrong
        with pytest.raises(InputError, match=said.replace("[", r"\[")):
            check(config, "evaluate")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"controls": ("copies",)}, "unknown control 'copies': known are copying, presence, shown_as_trained"),
        (
            {"controls": ("shown_as_trained",), "trained": ()},
            "'shown_as_trained': it is shown what a trained arm is; name one in trained",
        ),
        (
            {"controls": ("presence",), "best_of": 0},
            "'presence' of none: it chooses among best_of pictures; set best_of",
        ),
    ],
)
def test_bad_controls(changes, said):
    config = pipeline.completed(load(f"{CONFIG}:tiny"))
    config.evaluate.update(changes)
    with pytest.raises(InputError, match=said):
        check(config, "evaluate")


def test_the_controls_of_the_oracle(tmp_path, monkeypatch):
    """Copies are right but for their pose; by presence, the first picture that shows everybody is taken."""
    config = pipeline.completed(load(f"{CONFIG}:tiny"))
    config.evaluate.update(trained=(), best_of=2, controls=("copying", "presence"), scenes=8)
    config.stages = ("evaluate",)
    true = to_uint8(render(drawings("test", range(8), 0)[1]))
    nobody = drawings("test", range(8), 0)[1]
    nobody.parts[:] = False
    empty = to_uint8(render(nobody))

    def draw(context, name, generator, params, scenes, per_scene, changes):
        shown = [(place == per_scene - 1) != (name == "baseline") for place in range(per_scene)]
        ids = np.array([[f"{scene.id}/{place}" for place in range(per_scene)] for scene in scenes], object)
        return np.stack([true if there else empty for there in shown], 1), ids

    monkeypatch.setattr(evaluate, "base_generator", lambda context: (SimpleNamespace(max_subjects=2), {}))
    monkeypatch.setattr(arms, "draw_arm", draw)
    run(config, "evaluate", tmp_path)
    results = json.loads((tmp_path / "evaluate" / "results.json").read_text())
    means = {name: np.mean(rows, 0) for name, rows in results["arms"].items()}
    attributes, no_copy, identity = 3, 5, -2
    assert means["copying"][attributes] > 0.97 and means["copying"][[no_copy, identity]].max() < 0.05
    assert means["baseline"][identity] == 0 and means["presence"] == pytest.approx(means["ceiling"])
    assert all(results["complete"]["presence"]) and not any(results["complete"]["baseline"])


def test_a_run_says_how_far_one_arm_is_over_another(tmp_path, monkeypatch):
    """Over the baseline, what is said of every arm; nothing of an arm that had nothing to train on."""
    config = pipeline.completed(load(f"{CONFIG}:tiny"))
    pairs = (("align", "baseline"), ("baseline", "align"), ("align", "sft"))
    config.sft = config.align.to_dict()
    config.stages = ("generate", "score", "screen", "align", "sft", "evaluate")
    config.evaluate.update(trained=("align", "sft"), compare=pairs)
    true, noise = render(drawings("test", range(4), 0)[1]), np.random.default_rng(0).uniform(-1, 1, (4, 40, 40, 3))

    def draw(context, name, generator, params, scenes, per_scene, changes):
        assert per_scene == 1 and not changes
        pictures = to_uint8(true + (0.1 if name == "align" else 0.9) * (noise - true))
        return pictures[:, None], np.array([[scene.id] for scene in scenes], object)

    monkeypatch.setattr(evaluate, "base_generator", lambda context: (SimpleNamespace(max_subjects=2), {}))
    monkeypatch.setattr(evaluate, "was_trained", lambda folder: folder.name == "align")
    monkeypatch.setattr(evaluate, "with_trained", lambda context, name, generator, params: (generator, params))
    monkeypatch.setattr(arms, "draw_arm", draw)
    numbers = run(config, "evaluate", tmp_path)
    for aspect in ASPECTS:
        diff, low, high = of(numbers, f"gold/align_over_baseline/{aspect}")
        assert (diff, low, high) == of(numbers, f"gold/{aspect}") and low < diff < high and diff > 0.1
        assert of(numbers, f"gold/baseline_over_align/{aspect}")[0] == pytest.approx(-diff)
    assert numbers["gold/align_over_baseline/mean_of_aspects/diff"] > 0.1
    assert not any("sft" in key for key in numbers)
