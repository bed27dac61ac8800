"""configs/uper.py whole, at its smallest."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from narrative_jax import export, launch, pipeline, sample
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Candidate, Scene
from narrative_jax.data.backgrounds import GivenMasks, on_white
from narrative_jax.data.datasets import open_records
from narrative_jax.data.sources import storybook_scenes, storybook_training_set
from narrative_jax.generators.flow import TRANSFORMER
from narrative_jax.models.lora import fingerprint, read_adapter, save_adapter
from narrative_jax.models.network import below

SUBJECT = {"encoder": "iresnet", "weights": "", "size": "storybook", "side": 40, "max_subjects": 1}
SMALL = {"weights": "", "size": "storybook"}
CONFIG = Path(__file__).parents[1] / "configs" / "uper.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_weights):
    workdir = tmp_path_factory.mktemp("runs") / "uper"
    flags = [f"--config={CONFIG}:tiny", f"--config.generator.weights={tiny_weights}", f"--workdir={workdir}"]
    assert launch.main(flags) == 0
    return workdir


@pytest.mark.slow
def test_each_entry_is_done(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["refine/pairs"] == 24 and summary["sft/step"] == summary["follow/step"] == summary["refl/step"] == 2
    assert {f"compile/{name}": summary[f"compile/{name}"] for name in ("sft", "follow")} == {
        "compile/sft": 1,
        "compile/follow": 1,
    }
    assert {"gold/identity_consistency/aligned", "gold/sft/identity_consistency/aligned"} <= summary.keys()
    assert "gold/refl_over_sft/mean_of_aspects/diff" in summary


@pytest.mark.slow
def test_each_term_is_told(run):
    rows = [json.loads(line) for line in (run / "follow" / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        for name in ("by_text", "by_subject"):
            assert np.isfinite(row[f"reward/{name}"]) and row[f"pull/{name}"] > 0
        assert row["error"] > 0 and round(3 * row["t"], 5) in (1, 2), "a step of the window"


@pytest.mark.slow
def test_the_second_adapter_stands_on_the_first(run):
    first, second = (read_adapter(run / name / "adapter.safetensors") for name in ("sft", "refl"))
    assert (first[0], second[0]) == ("sft", "follow") and first[2] != second[2], "each names the base that it is on"


@pytest.mark.slow
def test_the_step_is_chosen_by_another_encoder(run):
    """Step 0 is the training's beginning, drawn alike; what is chosen is what was kept."""
    found = json.loads((run / "refl" / "results.json").read_text())
    assert found["chosen"] == 2 and found["steps"].keys() == {"0", "2"} and len(found["scenes"]) == 4
    assert found["columns"]["reward"] == ["identity_dinov2_storybook"] and len(found["columns"]["gold"]) == 3
    kept, chosen = run / "follow" / "samples" / "step-000002.safetensors", run / "refl" / "adapter.safetensors"
    assert kept.read_bytes() == chosen.read_bytes()
    (*_, last), (*_, weights) = read_adapter(run / "follow" / "adapter.safetensors"), read_adapter(chosen)
    assert all(np.array_equal(last[key], weights[key]) for key in last.keys() | weights.keys())
    scenes = [on_white(scene, GivenMasks()) for scene in storybook_scenes("tune", 4, characters=1)]
    painter, drawn = sample.load(run, "sft"), open_records(run / "refl" / "step_0" / "candidates", Candidate)
    for scene, candidate in zip(scenes, drawn, strict=True):
        np.testing.assert_allclose(painter.draw_scene(scene, 1)[0].astype(int), candidate.image, atol=1)


@pytest.mark.slow
def test_the_baseline_is_also_shown_what_was_learned_from(run):
    """So that what a cleaner portrait does is told from what was learned."""
    scenes = [on_white(scene, GivenMasks()) for scene in storybook_scenes("test", 4, characters=1)]
    painter = sample.load(run, "baseline")
    drawn = open_records(run / "evaluate" / "shown_as_trained" / "candidates", Candidate)
    for scene, candidate in zip(scenes, drawn, strict=True):
        np.testing.assert_allclose(painter.draw_scene(scene, 1)[0].astype(int), candidate.image, atol=1)
    summary = json.loads((run / "summary.json").read_text())
    assert "gold/sft_over_shown_as_trained/mean_of_aspects/diff" in summary


@pytest.mark.slow
def test_the_file_holds_both_adapters(run, tmp_path):
    """What is exported draws what the run's last entry does, from the base alone."""
    large = shutil.copytree(run, tmp_path / "run")
    for entry, before in (("sft", "baseline"), ("refl", "sft")):
        path = large / entry / "adapter.safetensors"
        name, made_with, _, weights = read_adapter(path)
        base = fingerprint(below(TRANSFORMER, sample.load(large, before).params))
        save_adapter(path, {key: value + 0.3 for key, value in weights.items()}, name, made_with, base)
    export.export(large, "", tmp_path / "lora")
    examples = storybook_training_set("raw", 16, 4, characters=1).batch(range(16))
    both = ((each.scene, on_white(each.scene, GivenMasks())) for each in examples)
    scene, shown = next(pair for pair in both if (np.diff([each.subjects[0].images for each in pair], axis=0)).any())

    def drawn(scene, entry):
        return np.int32(sample.load(large, str(entry)).draw_scene(scene, 2))

    whole = drawn(scene, "refl")  # subjects as it learned from them
    assert abs(whole - drawn(shown, tmp_path / "lora")).max() <= 1 < abs(whole - drawn(scene, tmp_path / "lora")).max()
    assert abs(whole - drawn(scene, "sft")).max() > 1


@pytest.fixture
def own(tmp_path, tiny_weights):
    """A folder of photos, and configs/uper.py:own on it at the embedded encoders' sizes."""
    for number in range(6):
        place = tmp_path / "photos" / ("rex", "fat_cat")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(noise).save(place / f"{number}.png")
    config = load(f"{CONFIG}:own")
    config.generator.update(preset="tiny", weights=str(tiny_weights))
    config.sampling.update(num_steps=3, batch_size=4)
    config.collect.examples = str(tmp_path / "photos")
    config.by_text.clip_cosine.size = config.by_looks.aesthetic.version = "storybook"
    with config.unlocked():
        config.by_subject.update(reward="identity", identity=SUBJECT)
        config.evaluate.update(scenes=3, per_scene=1, identity={**SUBJECT, "encoder": "dinov2"})
        config.refl.hyper.window = (1, 3)
        for name in ("sft", "refl"):
            config[name].update(total_steps=2, batch_size=4, save_every=2, sample_every=2)
            config[name].optimizer.warmup_steps = 1
    return config


@pytest.mark.slow
def test_people_s_own_examples(own, tmp_path):
    pipeline.run(own, tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["collect/pictures"] == summary["refine/kept"] == 6 and summary["sft/step"] == 2
    judged = "evaluate/reward/{}identity_dinov2_storybook/diff"
    assert {judged.format(arm) for arm in ("", "sft/", "refl_over_sft/")} <= summary.keys()
    rows = [json.loads(line) for line in (tmp_path / "run" / "refl" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["pull/by_subject"] > 0 and row["error"] > 0 for row in rows)
    prompts = {scene.prompt for scene in open_records(tmp_path / "run" / "evaluate" / "scenes", Scene)}
    assert prompts == {"a photo of a fat cat"}, "three of the six, the first ones"


def test_people_s_own_examples_are_looked_at_before_work_begins(own, tmp_path):
    pipeline.check(pipeline.completed(own))
    own.refine.background = "given"
    with pytest.raises(InputError, match=r"refine.background 'given': subject 'fat_cat' of 'fat_cat/1' comes without"):
        pipeline.check(pipeline.completed(own))
    own.refine.update(background="isnet")
    with pytest.raises(InputError, match=r"weights .*there is no such file"):  # none is embedded
        pipeline.check(pipeline.completed(own))
    own.refine.isnet.size = "storybook"
    pipeline.check(pipeline.completed(own))
    Image.new("RGB", (39, 60)).save(tmp_path / "photos" / "rex" / "8.png")
    with pytest.raises(InputError, match=r"rex/8.png of 60 × 39 pixels: the generator draws 40 × 40: enlarged"):
        pipeline.check(pipeline.completed(own))


@pytest.mark.parametrize(
    ("entry", "changes", "message"),
    [
        ("follow", {"after": "reference"}, "unknown entry that follow comes after 'reference'"),
        (
            "refl",
            {"identity": SUBJECT},
            "refl.reward 'identity': follow followed it, and what is followed says nothing",
        ),
        (
            "refl",  # the same where what is usual is left out
            {"identity": {key: value for key, value in SUBJECT.items() if key != "max_subjects"}},
            "refl.reward 'identity': follow followed it",
        ),
        (
            "refl",
            {"reward": "ensemble", "ensemble": {"by_subject": 1.0}},
            "refl.reward 'ensemble': follow followed it",
        ),
        (
            "refl",  # CLIP's image tower, whatever is compared with what
            {"identity": {**SUBJECT, "encoder": "clip"}},
            "refl.reward 'identity': follow followed it",
        ),
        ("sampling", {"sampler": "heun"}, "sampling.sampler 'heun': refl follows Euler steps"),
        (
            "follow",
            {"keep_adapters": False},
            "refl.source 'follow': it keeps no adapters to choose",
        ),
        (
            "follow",
            {"sample_every": 3},
            "follow.sample_every 3: an adapter is kept each 3 steps, and there are 2; keep",
        ),
        ("follow", {"sample_every": 0}, "keep_adapters: an adapter is kept each sample_every steps"),
        ("sft", {"after": "follow"}, "'sft'|'follow'"),
        ("follow", {"source": "reference"}, "source 'reference': that entry makes neither preferences nor examples"),
        ("follow", {"reward": ""}, "follow.reward '': refl has one in its loss"),
        ("follow", {"reward": "raters"}, "reward 'raters' in a loss"),
        (
            "follow",
            {"reward": "clip_cosine", "clip_cosine": SMALL},
            "reward 'clip.*set it to 'raw'",
        ),
        (
            "refine",
            {"training_set": {"kind": "raw", "size": 40, "seed": 4, "characters": 2}},
            "refine.training_set.characters 2: the reward of follow compares 1; set it to 1, .*, or the reward's ",
        ),
    ],
)
def test_bad_input(entry, changes, message):
    config = load(f"{CONFIG}:tiny")
    with config.unlocked():
        config[entry].update(changes)
    with pytest.raises(InputError, match=message):
        pipeline.check(pipeline.completed(config))


def test_what_follows_a_reward_has_no_more_subjects_than_that_compares():
    """Also of its own training set, and of scenes that another entry draws."""
    config = load(f"{CONFIG}:tiny")
    raw = {"statistics": "raw", "flow_matching": 0.0}
    with config.unlocked():
        config.follow.update(source="", training_set={"kind": "refined", "size": 8}, keep_adapters=False)
        config.stages = ("reference", "by_text", "by_subject", "refine", "sft", "follow")
        with pytest.raises(InputError, match=r"follow.training_set.characters 2: the reward of follow compares 1"):
            pipeline.check(pipeline.completed(config))
        config.characters = 2
        del config.follow.training_set
        config.follow.update(source="reference", reward="identity", identity=SUBJECT)
        config.follow.hyper.update(raw)
        config.stages = ("reference", "by_text", "by_subject", "refine", "sft", "follow")
        for name in ("by_text", "by_subject"):  # they would say it first
            config[name] = {"stage": "score", "source": "reference", "reward": "picture_statistics"}
        with pytest.raises(InputError, match="characters 2: the reward of follow compares 1"):
            pipeline.check(pipeline.completed(config))


def test_a_recipe_for_one_subject_says_what_several_need():
    config = load(f"{CONFIG}:tiny")
    config.characters = 2
    message = "characters 2: the reward of by_subject compares 1; .* or the reward's max_subjects to 2, with regions"
    with pytest.raises(InputError, match=message):
        pipeline.check(pipeline.completed(config))
