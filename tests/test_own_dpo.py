"""DPO on people's own pairs of pictures, from files to an adapter: `configs/dpo.py`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from narrative_jax import export, launch, sample
from narrative_jax.core.files import read_json
from narrative_jax.models.lora import read_adapter

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "dpo.py"
PROMPTS = {"ant": "Mara waves in the forest, in pastel.", "bee": "Ivo reads by the castle.", "cat": "Mara jumps."}


def picture(path, seed, size=(56, 48)):
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(path)


def make_folder(folder):
    """Three pairs of which one is even, and a picture without its other one."""
    folder.mkdir()
    for number, (stem, prompt) in enumerate(PROMPTS.items()):
        endings = ("_e1", "_e2") if stem == "bee" else ("_w", "_l")
        for side, ending in enumerate(endings):
            picture(folder / f"{stem}{ending}.png", 2 * number + side)
        (folder / f"{stem}.txt").write_text(prompt)
    picture(folder / "dog_w.png", 9)
    return folder


def make_lines(folder, **more):
    lines = []
    for stem, prompt in PROMPTS.items():
        one, other = ("_e1", "_e2") if stem == "bee" else ("_w", "_l")
        line = {"prompt": prompt, "chosen": f"{stem}{one}.png", "rejected": f"{stem}{other}.png"}
        lines.append(line | ({"tie": True} if stem == "bee" else {}) | {key: each[stem] for key, each in more.items()})
    return write_lines(folder / "pairs.jsonl", lines)


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(preferences, workdir, *changes, weights=None):
    flags = [f"--config={CONFIG}:tiny", f"--workdir={workdir}", f"--config.collect.preferences={preferences}"]
    flags += [f"--config.generator.weights={weights}"] if weights else []
    return launch.main([*flags, *(f"--config.{change}" for change in changes)])


def adapter(workdir):
    *_, weights = read_adapter(workdir / "align" / "adapter.safetensors")
    return weights


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_weights):
    folder = tmp_path_factory.mktemp("own")
    pairs = make_folder(folder / "pairs")
    assert run(pairs, folder / "run", weights=tiny_weights) == 0
    return folder


@pytest.mark.slow
def test_a_run_on_a_folder_of_pairs(made, capsys, tmp_path):
    numbers = read_json(made / "run" / "summary.json")
    assert (numbers["collect/pictures"], numbers["collect/preferences"], numbers["collect/left_out"]) == (6, 3, 1)
    key = "evaluate/reward/clip_cosine_storybook"
    assert {f"{key}/{end}" for end in ("baseline", "aligned", "diff", "diff_low", "diff_high")} <= numbers.keys()
    page = (made / "run" / "report.html").read_text()
    for words in ("dog_w.png: there is no dog_l", "Mara jumps.", "those of the pictures that were trained on"):
        assert words in page
    assert not (made / "run" / "align" / "encoded").exists()
    assert any(value.any() for key, value in adapter(made / "run").items() if key.endswith(".b"))
    images = [sample.load(made / "run", entry).draw("Mara jumps.", count=2) for entry in ("align", "baseline")]
    assert images[0].shape == (2, 40, 40, 3)
    export.export(made / "run", "", tmp_path / "lora")
    assert "people's own pictures: 3 preferences" in (tmp_path / "lora" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.slow
def test_a_file_and_a_folder_are_the_same(made, tiny_weights, tmp_path, capsys):
    pairs = make_lines(made / "pairs")
    assert run(pairs, tmp_path / "run", 'stages=("collect", "align")', weights=tiny_weights) == 0
    out = capsys.readouterr().out
    assert "1 of 3 preferences are ties: left out" in out and "2 of 2 pairs have no gap: β is 500 for all" in out
    one, other = adapter(made / "run"), adapter(tmp_path / "run")
    assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.slow
@pytest.mark.slow
def test_gaps_and_subjects_of_ones_own(made, tiny_weights, tmp_path, capsys):
    portraits = [{"class_word": "character", "images": ["ant_w.png"]}]
    gaps, subjects = {"ant": 0.5, "bee": 0.0, "cat": 3.0}, dict.fromkeys(PROMPTS, portraits)
    pairs = make_lines(made / "pairs", gap=gaps, subjects=subjects)
    assert run(pairs, tmp_path / "run", 'stages=("collect", "align")', weights=tiny_weights) == 0
    assert "no gap" not in capsys.readouterr().out
    first, *_ = map(json.loads, (tmp_path / "run" / "align" / "metrics.jsonl").read_text().splitlines())
    assert first["beta"] == pytest.approx(500 * (1 + 0.5 * np.mean([0, 1 - np.exp(-2.5)])), rel=1e-5)
    pairs = make_lines(made / "pairs", gap={**gaps, "cat": -2.0})
    assert run(pairs, tmp_path / "bad", 'stages=("collect", "align")', weights=tiny_weights) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "pair 3/chosen over 3/rejected with gap -2: β(a)" in message and "it must be positive" in message


@pytest.mark.slow
@pytest.mark.slow
def test_one_pair_is_enough(made, tiny_weights, tmp_path):
    line = {"prompt": "Mara jumps.", "chosen": "cat_w.png", "rejected": "cat_l.png"}
    pairs = write_lines(made / "pairs" / "one.jsonl", [line])
    assert run(pairs, tmp_path / "run", 'stages=("collect", "align")', weights=tiny_weights) == 0


def small(folder):
    picture(folder / "cat_w.png", 1, size=(39, 80))


def ties_only(folder):
    for stem in ("ant", "cat", "dog"):
        for ending in ("_w", "_l"):
            (folder / f"{stem}{ending}.png").unlink(missing_ok=True)


def same(folder):
    shutil.copy(folder / "cat_w.png", folder / "cat_l.png")


def twice(folder):
    picture(folder / "cat_w.jpg", 3)


def no_prompt(folder):
    (folder / "cat.txt").unlink()


def none_left(folder):
    for name in ("ant_l", "cat_l", "bee_e1"):
        (folder / f"{name}.png").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (small, r"cat_w.png of 39 × 80 pixels: the generator draws 40 × 40: enlarged, it would teach blur; give it"),
        (ties_only, "the preferences of collect: all of them are ties; give some that prefer one picture"),
        (same, "they are the same picture"),
        (twice, "has that name too"),
        (no_prompt, "there is no cat.txt"),
        (none_left, "it holds no pair"),
    ],
)
def test_bad_pairs_end_before_anything_is_written(tmp_path, capsys, spoil, message):
    pairs = make_folder(tmp_path / "pairs")
    spoil(pairs)
    assert run(pairs, tmp_path / "run") == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and message in err[0]
    assert not (tmp_path / "run").exists()


def test_a_missing_picture_and_no_path(tmp_path, capsys):
    pairs = make_folder(tmp_path / "pairs")
    lines = write_lines(pairs / "p.jsonl", [{"prompt": "x", "chosen": "cat_w.png", "rejected": "gone.png"}])
    for preferences, words in ((lines, ("p.jsonl:1", "gone.png")), ("", ("--config.collect.preferences=PATH",))):
        assert run(preferences, tmp_path / "run") == 2
        assert all(word in capsys.readouterr().err for word in words[:1])
    assert not (tmp_path / "run").exists()
