"""Other rewards on an evaluation's pictures: the same numbers as by hand."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from one_entry import check, run

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import read_json
from narrative_jax.core.images import fit_image, to_float
from narrative_jax.core.records import Candidate, Scene, Subject
from narrative_jax.data.backgrounds import FoundMasks, on_white
from narrative_jax.data.datasets import open_records
from narrative_jax.data.sources import storybook_training_set
from narrative_jax.report import tables
from narrative_jax.report.run import Run
from narrative_jax.rewards.features import Features
from narrative_jax.rewards.identity import IdentityOptions
from narrative_jax.runs.truths import pasted, true_pictures
from narrative_jax.statistics import paired_bootstrap, win_rate
from narrative_jax.statistics.distances import Moments, frechet_distance
from narrative_jax.trainees.base import TrainingSetOptions

HALVES = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))
SUBJECT = {"encoder": "dinov2", "weights": "", "size": "storybook", "side": 40, "max_subjects": 2, "regions": HALVES}
FEATURES = {"encoder": "dinov2", "weights": "", "size": "storybook", "side": 40}
TRUTH = {"kind": "true", "split": "test", "size": 8, "seed": 0}


def configured(workdir, **changes):
    config = read_json(workdir / "config.json")
    config["by_subject"] = {"stage": "score", "source": "generate", "reward": "identity", "identity": SUBJECT}
    config["rated"] = {"stage": "score", "source": "generate", "reward": "raters", "raters": {"seeds": [0, 1]}}
    fidelity = {"source": "evaluate", "measures": ("by_subject", "rated"), "features": FEATURES, "truth": TRUTH}
    fidelity |= {"cut_out": ("by_subject",), "background": "isnet", "isnet": {"weights": "", "size": "storybook"}}
    fidelity |= {"pasted": ("by_subject",)}
    given = {key: value for key, value in (fidelity | changes).items() if value is not None}
    config["fidelity"] = {"stage": "fidelity", **given}
    return config


@pytest.fixture(scope="module")
def measured(adpo_run, tmp_path_factory):
    """A finished run, and what is measured of it."""
    workdir = shutil.copytree(adpo_run, tmp_path_factory.mktemp("runs") / "run")
    return workdir, run(configured(workdir), "fidelity", workdir)


def test_measures_are_the_rewards_own(measured):
    workdir, numbers = measured
    found = read_json(workdir / "fidelity" / "results.json")["measures"]["by_subject"]
    before, after = (np.array(found[arm])[:, 0] for arm in ("baseline", "align"))
    key = "by_subject/identity_dinov2_storybook"
    expected = paired_bootstrap(after, before)
    assert numbers[f"{key}/baseline"] == pytest.approx(before.mean(), abs=1e-6)
    for end, value in zip(("diff", "diff_low", "diff_high"), expected, strict=True):
        assert numbers[f"{key}/{end}"] == pytest.approx(value, abs=1e-5)
    wins = win_rate(np.sign((after - before).round(9)))
    assert numbers["by_subject/align/win_rate"] == pytest.approx(wins.estimate)
    assert {"rated/prompt_following/diff", "rated/align/win_rate_low"} <= numbers.keys()


def test_pictures_and_subjects_are_cut_out_alike(measured):
    workdir, _ = measured
    found = np.array(read_json(workdir / "fidelity" / "results.json")["measures"]["by_subject cut out"]["align"])[:, 0]
    scenes = list(open_records(workdir / "evaluate" / "scenes", Scene))
    images = np.stack([each.image for each in open_records(workdir / "evaluate" / "align" / "candidates", Candidate)])
    by, reward = FoundMasks("", "storybook"), IdentityOptions(**SUBJECT).build()
    masks = np.concatenate([by.masks(Subject("", "", image[None])) for image in images])
    context = reward.encode([on_white(scene, by) for scene in scenes])
    white = to_float(np.where(masks[..., None], images, np.uint8(255)))
    expected = reward.judge(reward.params, reward.fit(white, context), context)
    assert len(images) == len(scenes) and masks.any()
    np.testing.assert_allclose(found, np.asarray(expected)[:, 0], atol=1e-5)


def test_what_was_pasted_is_the_rewards_own_measure(measured):
    workdir, numbers = measured
    found = np.array(read_json(workdir / "fidelity" / "results.json")["measures"]["by_subject pasted"]["align"])
    scenes = list(open_records(workdir / "evaluate" / "scenes", Scene))
    images = np.stack([each.image for each in open_records(workdir / "evaluate" / "align" / "candidates", Candidate)])
    true = np.stack([example.target for example in storybook_training_set("true", 8, 0, "test").batch(range(8))])
    reward = IdentityOptions(**SUBJECT).build()
    truths = true[: len(scenes)]
    expected = reward.measures(reward.params, to_float(images), reward.encode(scenes), to_float(truths))
    np.testing.assert_allclose(found, np.stack([expected["copy_paste"], expected["blending"]], 1), atol=1e-4)
    assert -1 < numbers["by_subject pasted/copy_paste/baseline"] < 1
    assert "by_subject pasted/align/win_rate" not in numbers


def test_true_pictures_are_judged_beside_the_arms(measured):
    workdir, numbers = measured
    scenes = list(open_records(workdir / "evaluate" / "scenes", Scene))
    reward = IdentityOptions(**SUBJECT).build()
    true = to_float(true_pictures(TrainingSetOptions(**TRUTH), scenes))
    context = reward.encode(scenes)
    expected = np.asarray(reward.judge(reward.params, reward.fit(true, context), context)).mean()
    assert numbers["by_subject/identity_dinov2_storybook/true"] == pytest.approx(expected, abs=1e-5)
    assert not [name for name in numbers if "gap_closed" in name], "measures have scales of their own"
    assert not [name for name in numbers if "true pictures" in name], "they are no arm"


def test_true_pictures_are_not_pasted_and_portraits_are():
    """Of one character, twice each; and what is true of other scenes is refused."""
    truth = TrainingSetOptions(**TRUTH, characters=1)
    scenes, true = zip(*((each.scene, each.target) for each in truth.open().batch(range(8))), strict=True)
    reward = IdentityOptions(**{**SUBJECT, "max_subjects": 1, "regions": ()}).build()
    portraits = [fit_image(scene.subjects[0].images[0], 40) for scene in scenes]
    arms = {name: np.stack([images, images], 1) for name, images in {"true": true, "portraits": portraits}.items()}
    truths = true_pictures(truth, scenes)
    found = {name: values[:, 0] for name, values in pasted(truths, reward, scenes, arms).items()}
    np.testing.assert_allclose(found["true"], -1, atol=0.01)
    np.testing.assert_allclose(found["portraits"], 1, atol=0.01)
    mixed = {"mixed": np.stack([true, portraits], 1)}
    np.testing.assert_allclose(pasted(truths, reward, scenes, mixed)["mixed"][:, 0], 0, atol=0.01)
    for changes, message in (
        ({"seed": 1}, "truth of '.*': the evaluation is of '.*' there; give it the evaluation's split, seed and"),
        ({"characters": 2}, "truth of '.*': the evaluation is of '.*' there; give it the evaluation's split, seed and"),
        ({"size": 5}, r"truth of 5 pictures: each of the evaluation's 8 scenes has its own; set truth.size to 8"),
    ):
        with pytest.raises(InputError, match=message):
            true_pictures(replace(truth, **changes), scenes)


def test_distances_are_of_the_pictures(measured):
    workdir, numbers = measured
    features = Features(**FEATURES)
    images = [each.image for each in open_records(workdir / "evaluate" / "align" / "candidates", Candidate)]
    true = [each.target for each in storybook_training_set("true", 8, 0, "test").batch(range(8))]
    expected = frechet_distance(*(Moments.of(features.of(np.stack(each))) for each in (images, true)))
    assert numbers["fid_dinov2_storybook/align"] == pytest.approx(expected, rel=1e-6)
    found = features.of(np.stack(true))
    np.testing.assert_allclose((found**2).mean(1), 1, rtol=1e-4)
    assert frechet_distance(*[Moments.of(found)] * 2) == pytest.approx(0, abs=1e-6 * found.shape[1])
    assert numbers["kid_dinov2_storybook/baseline"] > 0


def test_the_report_tells_them(measured):
    workdir, numbers = measured
    manifest = {"stage": "fidelity", "seconds": 1.0, "peak_bytes": 1, "summary": numbers}
    (workdir / "fidelity" / "manifest.json").write_text(json.dumps(manifest))
    config = configured(workdir)
    config["stages"] = [*config["stages"], "fidelity"]
    (workdir / "config.json").write_text(json.dumps(config))
    (table,) = tables.fidelity(Run(workdir))
    text = table.text()
    true = f"{numbers['by_subject/identity_dinov2_storybook/true']:.3f}"
    assert "fid dinov2 storybook" in text
    assert re.search(rf"by_subject: identity dinov2 storybook +{true} ", text)
    assert "preferred to the baseline" in text and text.count("%") >= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "generate"}, "unknown evaluation 'generate'"),
        ({"measures": ("evaluate",)}, "unknown score entry that measures 'evaluate'"),
        ({"background": "given"}, "unknown background 'given'"),
        ({"truth": None}, "fidelity.truth: features of pictures and what was pasted are told beside true ones"),
        ({"features": None, "pasted": None}, "fidelity.truth: features of pictures and what was pasted are told"),
        ({"cut_out": None}, "fidelity.background 'isnet': nothing is cut out; name score entries in cut_out"),
        ({"cut_out": None, "background": "isnett"}, "fidelity.background 'isnett': nothing is cut out"),
        (
            {"truth": {**TRUTH, "kind": "raw"}},
            "fidelity.truth.kind 'raw': what was pasted is told beside true pictures",
        ),
        ({"pasted": ("rated",)}, "rated.reward 'raters': pasting is told by an identity encoder; name an entry with"),
        (dict.fromkeys(("measures", "features", "truth", "cut_out", "pasted", "background")), "nothing is measured"),
        ({"features": {**FEATURES, "side": 41}}, "squares of 41"),
    ],
)
def test_bad_input(adpo_run, changes, message):
    with pytest.raises(InputError, match=message):
        check(configured(adpo_run, **changes), "fidelity")
