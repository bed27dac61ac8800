"""Rewards: the oracle on all cores, raters, and statistics of any picture."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from narrative_jax.core.errors import InputError
from narrative_jax.core.options import File, files_in, names_of, parse
from narrative_jax.core.records import Scene, Subject
from narrative_jax.rewards import workers
from narrative_jax.rewards.base import ASPECTS
from narrative_jax.rewards.catalogue import REWARDS, TRAINABLE_REWARDS
from narrative_jax.rewards.oracle import Oracle, facts_of, judge_images
from narrative_jax.rewards.picture_statistics import PictureStatistics
from narrative_jax.rewards.raters import Raters
from narrative_jax.storybook import ASPECTS as ORACLE_ASPECTS
from narrative_jax.storybook import Facts, Rater, drawings, judge, render, scenes

COUNT = 40  # more than one chunk, so that workers are asked
needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at processes in /proc")


@pytest.fixture(scope="module")
def sample():
    """Pictures u8, half of them noisy, and their scenes."""
    pictures = render(drawings("tune", range(COUNT))[1])
    noise = np.random.default_rng(0).normal(0, 0.2, pictures[::2].shape)
    pictures[::2] += np.float32(noise)
    images = np.round((np.clip(pictures, -1, 1) + 1) * 127.5).astype(np.uint8)
    return images, scenes("tune", range(COUNT))


@pytest.fixture(scope="module")
def judgement(sample):
    return judge_images(*sample)


# Oracle and raters


def test_judging_on_all_cores_is_judging(sample, judgement):
    images, asked = sample
    expected = judge(np.float32(images) / 127.5 - 1, [scene.facts for scene in asked])
    np.testing.assert_allclose(judgement.criteria, expected.criteria, atol=1e-5)
    assert [f.missing for f in judgement.findings] == [f.missing for f in expected.findings]
    assert judgement.aspects[1::2].mean() > 0.98 > judgement.aspects[::2].mean()


def test_the_oracle_scores_its_aspects(sample, judgement):
    assert ASPECTS == tuple(ORACLE_ASPECTS) == Oracle.aspects
    images, asked = sample
    np.testing.assert_allclose(Oracle().score_images(images[:8], asked[:8], None), judgement.aspects[:8], atol=1e-5)


def test_facts_read_from_disk_are_facts(sample):
    for scene in sample[1][:4]:
        read = facts_of(replace(scene, facts=json.loads(json.dumps(asdict(scene.facts)))))
        assert isinstance(read, Facts) and asdict(read) == asdict(scene.facts)
        assert facts_of(scene) is scene.facts


def test_scenes_without_facts_are_not_judged(sample):
    images, asked = sample
    mine = replace(asked[1], id="mine", facts=None)
    for reward in (Oracle(), Raters()):
        with pytest.raises(InputError, match=r"'mine' without facts.*use the reward 'picture_statistics'"):
            reward.score_images(images[:2], [asked[0], mine], ["a", "b"])
    with pytest.raises(InputError, match="facts of scene 'mine'"):
        facts_of(replace(mine, facts={"location": "beach"}))


def test_bad_pictures_do_not_reach_the_workers(sample):
    images, asked = sample
    with pytest.raises(InputError, match=r"shape \(40, 32, 32, 3\)"):
        judge_images(images[:, :32, :32], asked)
    with pytest.raises(InputError, match="40 pictures and facts of 39 scenes"):
        judge_images(images, asked[1:])
    stranger = replace(asked[0], facts=replace(asked[0].facts, location="moon"))
    with pytest.raises(InputError, match="unknown location 'moon'"):
        judge_images(images, [stranger, *asked[1:]])


def test_raters_are_the_mean_of_raters(sample, judgement):
    images, asked = sample
    ids = [f"{scene.id}/0" for scene in asked]
    expected = sum(Rater(seed).scores(judgement, ids) for seed in (4, 7)) / 2
    np.testing.assert_allclose(Raters((4, 7)).score_images(images, asked, ids), expected, atol=1e-4)


@pytest.mark.parametrize("seeds, said", [((), "each rater has a seed"), ((1, 1), "each rater"), ((-1,), "seed -1")])
def test_bad_raters(seeds, said):
    with pytest.raises(InputError, match=said):
        Raters(seeds)


# Names

LEAST = {"weights": "w", "clip": "c", "head": "h", "url": "http://localhost:8000/v1", "model": "m"}  # without defaults


@pytest.mark.parametrize("name", REWARDS)
def test_options_of_a_reward_by_name(name):
    """Every reward is made of a section that gives what has no default; files in it are known as such."""
    kind = REWARDS[name]
    section = {key: value for key, value in LEAST.items() if key in names_of(kind)}
    options = parse(kind, section, name)
    assert sorted(files_in(options)) == sorted(set(section.values()) & {"w", "c", "h"})
    assert all(isinstance(file, File) for file in files_in(options))
    if not hasattr(options, "build"):
        assert options.name == name and callable(options.score_images)
    else:
        with pytest.raises(InputError, match=r"weights '[wc]': there is no such file"):
            options.build()


def test_what_ships_is_found_without_a_path():
    storybook = {"clip_cosine": ("weights", "size"), "identity": ("weights", "size"), "aesthetic": ("clip", "version")}
    for name, (file, size) in storybook.items():
        section = {file: "", size: "storybook"} | ({"head": ""} if name == "aesthetic" else {"side": 40})
        section = {key: value for key, value in section.items() if key in names_of(REWARDS[name])}
        reward = parse(REWARDS[name], section, name).build()
        assert reward.name.endswith("storybook") and reward.params.keys() == reward.axes.keys()


@pytest.mark.parametrize("name", TRAINABLE_REWARDS)
def test_what_can_be_trained_by_name(name):
    sizes = {"scalar": {"size": "storybook"}, "aesthetic": {}, "nireward": {}}
    new = parse(TRAINABLE_REWARDS[name], sizes[name], name)
    assert not list(files_in(new)), "these ship"
    names = new.untrained(0)[0].axes.keys()
    trained = {key for key in names if new.trains(key)}
    assert trained and (trained == names) == (name == "nireward"), "the others keep a part as it is"


def test_raters_by_their_section():
    assert parse(Raters, {"seeds": [4, 7]}, "raters").seeds == (4, 7)
    with pytest.raises(InputError, match=r"raters.seeds\[1\] 'x': it is an integer"):
        parse(Raters, {"seeds": [4, "x"]}, "raters")


# Workers


@needs_proc
def test_workers_know_no_jax(judgement):
    for pid in workers._pool()._processes:
        assert "jaxlib" not in Path(f"/proc/{pid}/maps").read_text()


SCRIPT = """
import jax, os, signal, threading, time
from narrative_jax.rewards import workers
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
def signal_all_the_time():
    while True:
        os.killpg(0, signal.SIGINT)
        os.killpg(0, signal.SIGTERM)
        time.sleep(0.001)
threading.Thread(target=signal_all_the_time, daemon=True).start()
print(*workers.run_all(divmod, [(7, 2), (9, 4)]))
print(*workers.run_all(divmod, [(9, 5)]))
print(*workers._pool()._processes, flush=True)
time.sleep(60)
"""  # without the usual guard of the main module; signals while the workers start, and while they work


@needs_proc
def test_workers_outlive_signals_to_the_group_but_not_their_parent(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    script = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    try:
        assert script.stdout.readline() == b"(3, 1) (2, 1)\n"
        assert script.stdout.readline() == b"(1, 4)\n"
        pids = [int(pid) for pid in script.stdout.readline().split()]
    finally:
        script.kill()
        script.wait()
        script.stdout.close()
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pids and not any(_runs(pid) for pid in pids)


def _runs(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")")[1].split()[0] != "Z"


# Picture statistics


def subject_of(*images, masks=None):
    return Subject("Rex", "dog", np.stack(images), masks)


def statistics(image, *subjects):
    scores = PictureStatistics().score_images(image[None], [Scene("s", "a dog", subjects, "user")], ["s/0"])
    return dict(zip(PictureStatistics.aspects, scores[0], strict=True))


def filled(colour, size=(12, 10)):
    return np.broadcast_to(np.uint8(colour), (*size, 3))


def test_colour_agreement_is_the_shared_histogram():
    red, green, blue = (filled(c) for c in ((200, 10, 10), (10, 200, 10), (10, 10, 200)))
    half = np.concatenate([red[:6], blue[:6]])
    assert statistics(half, subject_of(red))["colour_agreement"] == pytest.approx(0.5)
    assert statistics(half, subject_of(red), subject_of(green))["colour_agreement"] == pytest.approx(0.25)
    assert statistics(half, subject_of(red, blue))["colour_agreement"] == pytest.approx(1)
    mask = np.zeros((1, 12, 10), bool)
    mask[:, :6] = True  # the red half
    assert statistics(red, subject_of(half, masks=mask))["colour_agreement"] == pytest.approx(1)


def test_the_white_that_photos_stand_on_has_no_colour():
    padded = np.concatenate([filled((200, 10, 10)), filled((255, 255, 255))])
    assert statistics(filled((200, 10, 10)), subject_of(padded))["colour_agreement"] == pytest.approx(1)
    assert statistics(filled((255, 255, 255)), subject_of(filled((255, 255, 255))))["colour_agreement"] == 1


def test_exposure_is_best_at_middle_grey():
    values = [
        statistics(filled((level,) * 3), subject_of(filled((1, 1, 1))))["exposure"] for level in (0, 51, 128, 255)
    ]
    expected = [np.exp(-((level / 255 - 0.5) ** 2) / 0.08) for level in (0, 51, 128, 255)]
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_blur_lowers_sharpness():
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 256, (32, 24, 3)).astype(np.uint8)
    soft = np.array(Image.fromarray(sharp).resize((12, 16)).resize((24, 32)))
    subject = subject_of(filled((1, 1, 1)))
    sharpness = [statistics(image, subject)["sharpness"] for image in (sharp, soft, filled((99, 99, 99)))]
    assert sharpness[0] > sharpness[1] + 0.5 > sharpness[2] + 1
    assert sharpness[2] == pytest.approx(-6)  # nothing to see: the floor


def test_photos_of_a_subject_agree_on_average(test_data):
    """Colours tell little, but real photos of one subject share more of them than photos of two do."""
    folders = sorted(folder for folder in (test_data / "dreambooth").iterdir() if folder.is_dir())
    photos = []
    for folder in folders:
        paths = sorted(folder.glob("*.jpg"))[:3]
        photos.append([np.array(Image.open(path).convert("RGB").resize((48, 48))) for path in paths])
    asked = [Scene(f.name, "", (subject_of(*rest),), "user") for f, (_, *rest) in zip(folders, photos, strict=True)]
    images = np.stack([first for first, *_ in photos for _ in folders])
    scores = PictureStatistics().score_images(images, asked * len(folders), [""] * len(images))
    agreement, own = scores[:, 2].reshape(len(folders), -1), np.eye(len(folders), dtype=bool)
    assert len(folders) == 10 and agreement[own].mean() > agreement[~own].mean() + 0.03
    assert np.isfinite(scores).all() and scores.std(0).min() > 0.01


def test_a_scene_without_subjects_has_no_colours():
    with pytest.raises(InputError, match="'s' without subjects"):
        statistics(filled((1, 2, 3)))
