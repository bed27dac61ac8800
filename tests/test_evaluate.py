"""Arms that are compared with each other: scene by scene, and only those that have values."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from one_entry import check, run

from narrative_jax import pipeline
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_uint8
from narrative_jax.core.records import Candidate
from narrative_jax.stages import evaluate
from narrative_jax.statistics import paired_bootstrap
from narrative_jax.statistics.comparison import between
from narrative_jax.storybook import ASPECTS, drawings, render

CONFIG = Path(__file__).parents[1] / "configs" / "adpo.py"
# Aspects with unequal numbers of criteria: their mean is not that of all criteria.
COLUMNS = {"prompt_following": ("count", "actions", "setting"), "visual_quality": ("cleanness",)}


@pytest.fixture
def values():
    """f64[scenes, criteria] of three arms; scenes differ more than arms do."""
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(40, 4))
    return {arm: scenes + gain + 0.1 * rng.normal(size=(40, 4)) for arm, gain in (("a", 0.1), ("b", 0.0), ("c", 0.3))}


def of(numbers, key):
    return tuple(numbers[f"{key}/{end}"] for end in ("diff", "diff_low", "diff_high"))


def test_differences_of_a_pair_by_hand(values):
    numbers = between(values, (("a", "b"), ("b", "c")), COLUMNS, "gold")
    names = (*COLUMNS, "mean_of_aspects")
    ends = ("diff", "diff_low", "diff_high")
    assert set(numbers) == {f"gold/{pair}/{n}/{e}" for pair in ("a_over_b", "b_over_c") for n in names for e in ends}
    for first, second in ("ab", "bc"):
        one, other = (np.stack([values[arm][:, :3].mean(1), values[arm][:, 3]]) for arm in (first, second))
        for name, after, before in zip(names, (*one, one.mean(0)), (*other, other.mean(0)), strict=True):
            diff, low, high = of(numbers, f"gold/{first}_over_{second}/{name}")
            assert diff == pytest.approx((after - before).mean()) and low < diff < high
            assert (diff, low, high) == pytest.approx(paired_bootstrap(after, before))


def test_the_same_scenes_are_compared(values):
    """What all scenes gain alike has no spread, however far the scenes lie apart."""
    shifted = values | {"a": values["b"] + 0.25}
    for key, value in between(shifted, (("a", "b"),), COLUMNS, "gold").items():
        assert value == pytest.approx(0.25), key


def test_an_arm_without_values_is_left_out(values):
    """As after training that was skipped."""
    pairs = (("a", "lost"), ("lost", "b"), ("a", "b"))
    assert between(values, pairs, COLUMNS, "gold") == between(values, pairs[2:], COLUMNS, "gold") != {}


def test_no_mean_of_aspects_on_different_scales(values):
    columns = {"sharpness": (), "exposure": (), "contrast": (), "colour": ()}
    numbers = between(values, (("a", "b"),), columns, "reward")
    assert {key.split("/")[2] for key in numbers} == set(columns)
    assert numbers["reward/a_over_b/contrast/diff"] == pytest.approx((values["a"] - values["b"])[:, 2].mean())


def test_the_pairs_of_the_configs():
    controls = pipeline.completed(load(f"{CONFIG}:controls"))
    pipeline.check(controls)
    same_seed = {(f"adpo_{seed}", f"{other}_{seed}") for seed in range(3) for other in ("sft", "shuffled")}
    assert len(controls.evaluate.compare) == 6 and set(controls.evaluate.compare) == same_seed
    assert load(str(CONFIG)).evaluate.compare == ()


def test_which_arms_there_are():
    config = pipeline.completed(load(f"{CONFIG}:controls"))
    config.evaluate.compare = (("best_of_4", "guidance"), ["baseline", "shuffled_2"])
    check(config, "evaluate")
    for wrong, said in (
        (("adpo_0", "baseline"), "evaluate.compare[0] 'adpo_0': it is a list of 2: a text, a text; give"),
        ((("guidance", "best_of_3"),), "unknown arm to compare 'best_of_3': .*'best_of_4'"),
    ):
        config.evaluate.compare = wrong
        with pytest.raises(InputError, match=said.replace("[", r"\[")):
            check(config, "evaluate")


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
        return [Candidate(s.id, s.id, picture, 0, name) for s, picture in zip(scenes, pictures, strict=True)]

    monkeypatch.setattr(evaluate, "base_generator", lambda context: (SimpleNamespace(max_subjects=2), {}))
    monkeypatch.setattr(evaluate, "was_trained", lambda folder: folder.name == "align")
    monkeypatch.setattr(evaluate, "with_trained", lambda context, name, generator, params: (generator, params))
    monkeypatch.setattr(evaluate, "draw_arm", draw)
    numbers = run(config, "evaluate", tmp_path)
    for aspect in ASPECTS:
        diff, low, high = of(numbers, f"gold/align_over_baseline/{aspect}")
        assert (diff, low, high) == of(numbers, f"gold/{aspect}") and low < diff < high and diff > 0.1
        assert of(numbers, f"gold/baseline_over_align/{aspect}")[0] == pytest.approx(-diff)
    assert numbers["gold/align_over_baseline/mean_of_aspects/diff"] > 0.1
    assert not any("sft" in key for key in numbers)
