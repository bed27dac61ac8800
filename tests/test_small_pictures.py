"""Pictures smaller than a patch of an encoder: refused by name by every score of configs/score.py, not made larger.

Pictures are refused before weights are read, so that the published sizes need none; photos when scenes are read.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from small_rewards import PROMPTS, TOKENIZER, pictures, scenes

from narrative_jax import launch
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_uint8
from narrative_jax.core.options import parse
from narrative_jax.core.records import Scene, Subject
from narrative_jax.models.preprocessing import longest_side_pad
from narrative_jax.rewards.base import OnHost
from narrative_jax.rewards.catalogue import REWARDS
from narrative_jax.rewards.picture_statistics import PictureStatistics
from narrative_jax.rewards.subjects import least_size

CONFIG = Path(__file__).parents[1] / "configs" / "score.py"
ENTRIES = {
    "clip": "clip_cosine",
    "clip_score": "clip_score",
    "hps": "hps_v2",
    "pick": "pick_score",
    "subject": "subject_consistency",
    "identity": "identity",
}


@pytest.fixture
def score(tmp_path, monkeypatch, capsys):
    """score(entry, picture, photo, *flags): what the command says of one picture and photo of these sizes."""
    monkeypatch.chdir(tmp_path)
    TOKENIZER.save("tokenizer.json")
    Path("none.safetensors").touch()
    save_file({"weight": np.ones((1, 768), np.float32), "bias": np.ones(1, np.float32)}, "head.safetensors")

    def run(entry, picture, photo, *flags):
        for name, size in (("speck", picture), ("photo", photo)):
            Image.fromarray(to_uint8(pictures(1, *size)[0])).save(f"{name}.png")
        who = [{"class_word": "dog", "images": ["photo.png"]}]
        line = {"id": "speck", "prompt": PROMPTS[0], "picture": "speck.png", "subjects": who}
        Path("mine.jsonl").write_text(json.dumps(line))
        weights = {f"{each}.{reward}.weights": "none.safetensors" for each, reward in ENTRIES.items()}
        weights |= {f"aesthetic.aesthetic.{key}": f"{key}.safetensors" for key in ("clip", "head")}
        Path("clip.safetensors").touch()
        weights |= {"aesthetic.aesthetic.version": "v1", "collect.pictures": "mine.jsonl"}
        weights |= {"stages": f"('collect', {entry!r})"}
        code = launch.main(
            [f"--config={CONFIG}:all", "--workdir=run", *(f"--config.{k}={v}" for k, v in weights.items()), *flags]
        )
        assert code == 2 and not list(Path("run", entry).glob("scores"))
        return capsys.readouterr().err.splitlines()[-1]

    return run


FORMS = [
    *((entry, (), "14 × 14") for entry in (*ENTRIES, "aesthetic")),
    ("clip", ("--config.clip.clip_cosine.size=ViT-B/32",), "32 × 32"),
    ("subject", ("--config.subject.subject_consistency.form=grid",), "14 × 14"),
    (
        "identity",
        ("--config.identity.identity.max_subjects=2", "--config.identity.identity.regions=((0,0,.5,.25),(0,.25,1,1))"),
        "28 × 56",
    ),
]


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (40, 13)])
@pytest.mark.parametrize("entry, flags, least", FORMS)
def test_pictures(score, entry, flags, least, size):
    line = score(entry, size, (40, 40), *flags)
    assert line.startswith(f"candidate 'speck' of {size[0]} × {size[1]} pixels: ")
    assert f" judges pictures of {least} and more, " in line and line.endswith("; give it larger, or leave it out")


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (13, 40)])
@pytest.mark.parametrize("entry", ["identity", "subject"])
def test_subject_images(entry, size, tmp_path):
    """By the rewards of the published sizes, of which no weights are read."""
    name, weights = ENTRIES[entry], tmp_path / "none.safetensors"
    weights.touch()
    section = {**load(f"{CONFIG}:all")[entry][name].to_dict(), "weights": str(weights)}
    reward = parse(REWARDS[name], section, name).build()
    photo = to_uint8(pictures(1, *size))
    asked = [Scene("speck", PROMPTS[0], (Subject("dog", "dog", photo),), "user")]
    said = (
        f"scene 'speck': images of 'dog' of {size[0]} × {size[1]} pixels: they hold a patch of the encoder's, 14 × 14"
    )
    with pytest.raises(InputError, match=f"{said}; give larger ones"):
        reward.encode(asked)


def test_the_first_small_picture_of_many_is_found_before_any_is_scored(score, monkeypatch):
    monkeypatch.setattr(OnHost, "score_images", lambda *arguments: pytest.fail("it is scored"))
    assert score("clip", (40, 13), (40, 40)).startswith("candidate 'speck' of 40 × 13 pixels: ")


def test_a_side_off_the_patch_is_refused_before_anything_runs(score):
    for entry, change, said in (
        ("identity", "identity.identity.side=225", "squares of 225: .* take 224 or 238"),
        ("subject", "subject.subject_consistency.side=100", "patches of 378 from pictures of 100"),
    ):
        line = score(entry, (40, 40), (40, 40), f"--config.{change}")
        assert re.match(said, line)
        assert not Path("run").exists()


@pytest.mark.parametrize(
    "regions, least",
    [
        ((), (14, 14)),
        (((0, 0, 1, 0.5), (0, 0.5, 1, 1)), (14, 28)),
        (((0, 0, 1 / 3, 1), (1 / 3, 0, 2 / 3, 1), (2 / 3, 0, 1, 0.1)), (42, 140)),
    ],
)
def test_each_region_holds_a_patch(regions, least):
    assert least_size(regions, 14) == least


def test_long_pictures_keep_a_row():
    """HPS v2's own code resizes them to nothing."""
    assert np.isfinite(longest_side_pad(pictures(1, 1, 1000), 224)).all()


def test_statistics_of_a_speck_are_numbers():
    images = to_uint8(pictures(1, 1, 1))
    assert np.isfinite(PictureStatistics().score_images(images, scenes(1), ["0"])).all()
