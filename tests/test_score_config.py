"""configs/score.py on a folder and on a JSONL file: what a person gets, and what the command says of bad input."""

import json
from pathlib import Path

import jax
import numpy as np
import one_entry
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_rewards import (
    DINO,
    PROMPTS,
    TEXT,
    TOKENIZER,
    VISION,
    clip_params,
    pictures,
    scenes,
    small_clip,
    small_dino,
    subject,
)

from narrative_jax import launch
from narrative_jax.core.errors import Stopped
from narrative_jax.core.images import to_float, to_uint8
from narrative_jax.core.records import Candidate, Scene
from narrative_jax.data.datasets import open_records
from narrative_jax.models.checkpoints import save_weights
from narrative_jax.models.clip import CLIP_NAMES, CLIP_SIZES
from narrative_jax.models.dinov2 import DINOV2_NAMES, DINOV2_SIZES
from narrative_jax.rewards.clip_scores import ClipCosine
from narrative_jax.rewards.identity import Identity
from narrative_jax.stages import collect

CONFIG = Path(__file__).parents[1] / "configs" / "score.py"
SIZES = [(18, 27), (20, 20), (18, 27)]


@pytest.fixture
def place(tmp_path, random_weights, monkeypatch):
    """A working directory with weights of small encoders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(CLIP_SIZES, "Tiny", (TEXT, VISION))
    monkeypatch.setitem(DINOV2_SIZES, "Tiny", DINO)
    TOKENIZER.save("tokenizer.json")
    save_weights("clip.safetensors", clip_params(random_weights), CLIP_NAMES, np.float32)
    save_weights("dino.safetensors", small_dino(random_weights).params, DINOV2_NAMES, np.float32)
    return tmp_path


@pytest.fixture
def drawn(place):
    """Pictures of several sizes in a folder, each beside its prompt."""
    images = [to_uint8(pictures(1, *size, seed=seed)[0]) for seed, size in enumerate(SIZES)]
    folder = place / "mine"
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(PROMPTS[number] + "\n")
    return images


def run(pictures, *flags, variant=""):
    clip = ("--config.clip.clip_cosine.weights=clip.safetensors", "--config.clip.clip_cosine.size=Tiny")
    where = (f"--config={CONFIG}{variant}", f"--config.collect.pictures={pictures}", "--workdir=run")
    return launch.main([*where, *clip, "--config.clip.batch_size=2", *flags])


def cosines(random_weights, images):
    reward = ClipCosine(small_clip(random_weights))
    asked = scenes(*[0] * len(images))
    score = jax.jit(reward.score)
    rows = [score(reward.params, to_float(i)[None], reward.encode([s])) for i, s in zip(images, asked, strict=True)]
    return np.concatenate(rows)[:, 0]


def test_a_folder(drawn, random_weights, capsys):
    assert run("mine") == 0
    table = pq.read_table("run/table/scores.parquet").to_pydict()
    assert list(table) == ["id", "prompt", "clip_cosine_tiny"]
    assert (table["id"], table["prompt"]) == (["0", "1", "2"], PROMPTS[:3])
    expected = cosines(random_weights, drawn)
    np.testing.assert_allclose(table["clip_cosine_tiny"], expected, atol=1e-5)
    out = capsys.readouterr().out
    assert f"{np.mean(expected):.4f}" in out and "3 pictures: run/table/scores.parquet" in out


def test_a_file_with_subjects_and_two_scores(drawn, place, random_weights):
    lines = []
    for number in range(3):
        who = subject(number + 3)
        Image.fromarray(who.images[0]).save(place / f"photo{number}.png")
        subjects = [{"class_word": "character", "images": [f"photo{number}.png"]}]
        lines.append({"id": f"x{number}", "prompt": PROMPTS[number], "picture": f"mine/{number}.png"})
        lines[-1]["subjects"] = subjects
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    options = {"weights": "dino.safetensors", "size": "Tiny", "side": "16"}
    flags = [f"--config.identity.identity.{key}={value}" for key, value in options.items()]
    chosen = ("--config.stages=('collect', 'clip', 'identity', 'table')", "--config.table.sources=('clip', 'identity')")
    assert run("mine.jsonl", *flags, *chosen, variant=":all") == 0
    table = pq.read_table("run/table/scores.parquet").to_pydict()
    assert list(table) == ["id", "prompt", "clip_cosine_tiny", "identity_dinov2_tiny"]
    reward = Identity(small_dino(random_weights), 16)
    score = jax.jit(reward.score)
    for number, image in enumerate(drawn):
        asked = [Scene("", "", [subject(number + 3)], "user")]
        expected = float(score(reward.params, to_float(image)[None], reward.encode(asked))[0, 0])
        assert table["identity_dinov2_tiny"][number] == pytest.approx(expected, abs=1e-4)


def test_one_picture_too_small_for_the_encoder(drawn, capsys):
    Image.fromarray(drawn[0][:5, :3]).save("mine/1.png")
    assert run("mine") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("candidate '1' of 5 × 3 pixels: clip_cosine_tiny judges pictures of 4 × 4 and more")
    assert not Path("run/clip/scores").exists()


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda: Path("mine/1.txt").unlink(), "mine/1.png: its prompt is missing: there is no 1.txt"),
        (lambda: Path("mine/1.png").write_bytes(b"no"), "mine/1.png: it is no readable picture"),
        (lambda: Path("mine/2.jpg").write_bytes(Path("mine/2.png").read_bytes()), "mine/2.png: 2.jpg has that name"),
        (lambda: [file.unlink() for file in Path("mine").glob("*.png")], "mine: it holds no picture"),
        (lambda: Path("clip.safetensors").unlink(), "weights 'clip.safetensors': there is no such file"),
    ],
)
def test_bad_folders(drawn, capsys, spoil, said):
    spoil()
    assert run("mine") == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "line, said",
    [
        ({"id": "a", "prompt": "b"}, "mine.jsonl:1: 'picture' is missing"),
        ({"id": "a", "prompt": "b", "picture": "mine/9.png"}, "mine.jsonl:1: picture 'mine/9.png': there is no"),
        ({"id": "a", "prompt": "b", "picture": "mine/0.png", "subjects": [{}]}, "'class_word' is missing"),
    ],
)
def test_bad_files(drawn, capsys, line, said):
    Path("mine.jsonl").write_text(json.dumps(line))
    assert run("mine.jsonl") == 2
    assert said in capsys.readouterr().err


def test_a_stopped_run_goes_on(drawn, monkeypatch):
    monkeypatch.setattr(collect, "_CHUNK", 2)
    config = {"collect": {"stage": "collect", "pictures": "mine"}}
    looks = iter([False, True])
    stop = type("StopAfter", (), {"requested": property(lambda self: next(looks))})()
    with pytest.raises(Stopped):
        one_entry.run(config, "collect", Path(), stop)
    Path("mine/0.png").write_bytes(Path("mine/1.png").read_bytes())  # would show, were it read again
    assert one_entry.run(config, "collect", Path()) == {"pictures": 3, "left_out": 0}
    for candidate, image in zip(open_records("collect/candidates", Candidate), drawn, strict=True):
        np.testing.assert_array_equal(candidate.image, image)
    assert not Path("collect/chunks").exists()


def test_a_picture_that_was_changed_makes_its_scores_stale(drawn, capsys):
    """Behind an unchanged option: the folder is the same, what is in it is not."""
    assert run("mine") == 0 and run("mine") == 0
    Path("mine/0.png").write_bytes(Path("mine/1.png").read_bytes())
    capsys.readouterr()
    assert run("mine") == 2
    said = "entry 'collect' of run: it was made from something else: content of mine; --redo=collect does collect, clip"
    assert capsys.readouterr().err.startswith(said)
    assert run("mine", "--redo=collect") == 0
    scores = pq.read_table("run/table/scores.parquet").to_pydict()["clip_cosine_tiny"]
    assert len(scores) == 3 and len(set(scores)) == 3


def test_a_table_is_of_one_set_of_pictures(drawn, capsys):
    assert run("mine", "--config.table.sources=()") == 2
    assert "sources none: they are compared on the pictures of one entry" in capsys.readouterr().err
    assert run("mine", "--config.table.sources=('collect',)") == 2
    assert "sources 'collect': it scores no pictures; name score entries" in capsys.readouterr().err
