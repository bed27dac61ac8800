"""Pictures for a prompt and portraits of one's own, from the command line and from Python."""

import shutil

import jax.numpy as jnp
import numpy as np
import one_entry
import pytest
from PIL import Image

from narrative_jax import sample
from narrative_jax.core.errors import InputError
from narrative_jax.core.files import read_json
from narrative_jax.core.records import Candidate
from narrative_jax.data.datasets import open_records
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.models.lora import read_adapter, save_adapter

PROMPT = "Mara waves in the forest, in pastel."


@pytest.fixture(scope="module")
def painter(adpo_run):
    return sample.load(adpo_run)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with two portraits."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 60), (200, 30, 30)).save("mara.png")
    Image.new("RGB", (24, 24), (30, 30, 200)).save("ivo.jpg")
    return tmp_path


def test_three_lines_of_python(painter, folder):
    images = painter.draw(PROMPT, ["mara.png", "ivo.jpg"], count=3)
    assert images.shape == (3, 40, 40, 3) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 3 and images.std() > 5


def test_the_embedded_generator_needs_no_run():
    assert sample.load().draw(PROMPT, count=1, num_steps=1).std() > 5


@pytest.mark.slow
def test_what_pictures_depend_on(painter, folder):
    """All of the request, and nothing but it."""
    red = np.asarray(Image.open("mara.png"))
    drawn = painter.draw(PROMPT, [red], count=2)
    np.testing.assert_array_equal(drawn, painter.draw(PROMPT, ["mara.png"], count=2))
    others = [
        painter.draw(PROMPT, [red], count=2, seed=1),
        painter.draw("Mara sleeps on the beach.", [red], count=2),
        painter.draw(PROMPT, ["ivo.jpg"], count=2),
        painter.draw(PROMPT, count=2),
        painter.draw(PROMPT, [red], count=2, num_steps=3),
        painter.draw(PROMPT, [red], count=2, guidance_scale=2.0),
    ]
    for other in others:
        assert (other != drawn).any()


@pytest.mark.slow
def test_the_run_s_own_pictures_come_again(adpo_run):
    """Baseline and trained entry, each as the evaluation drew it."""
    scenes = storybook_scenes("test", 2)
    for entry, arm in (("baseline", "baseline"), ("align", "align"), ("", "align")):
        painter = sample.load(adpo_run, entry)
        candidates = list(open_records(adpo_run / "evaluate" / arm / "candidates", Candidate))
        for scene, candidate in zip(scenes, candidates, strict=False):
            np.testing.assert_allclose(painter.draw_scene(scene, 1)[0].astype(int), candidate.image, atol=1)


@pytest.mark.slow
def test_candidates_of_what_was_trained(adpo_run, tmp_path):
    """An entry may draw with what another one trained, and otherwise than the run: as a painter of that does."""
    run = shutil.copytree(adpo_run, tmp_path / "run")
    config = read_json(run / "config.json")
    entry = {"stage": "generate", "split": "test", "scenes": 2, "per_scene": 2, "scene_seed": 0}
    for name, changes in {"again": {}, "shorter": {"sampling": {"num_steps": 1}}}.items():
        config[name] = {**entry, "trained": "align", **changes}
        one_entry.run(config, name, run)
        painter, found = sample.load(run, "align"), list(open_records(run / name / "candidates", Candidate))
        scenes = storybook_scenes("test", 2)
        drawn = np.concatenate([painter.draw_scene(scene, 2, **changes.get("sampling", {})) for scene in scenes])
        np.testing.assert_allclose(np.stack([each.image for each in found]).astype(int), drawn, atol=1)
        assert {each.generator for each in found} == {"align"}
    wrong = {"trained": "score", "sampling": {"steps": 3}}, ("train entry of the generator 'score'", "sampling 'steps'")
    for change, message in zip(wrong[0].items(), wrong[1], strict=True):
        config["again"] = {**entry, **dict([change])}
        with pytest.raises(InputError, match=message):
            one_entry.check(config, "again")


def test_a_trained_entry_s_weights_are_used(adpo_run, tmp_path, painter):
    """An adapter that was made large draws other pictures."""
    run = shutil.copytree(adpo_run, tmp_path / "run")
    path = run / "align" / "adapter.safetensors"
    name, made_with, base, weights = read_adapter(path)
    save_adapter(path, {key: value + 0.5 for key, value in weights.items()}, name, made_with, base)
    scene = storybook_scenes("test", 1)[0]
    assert (sample.load(run).draw_scene(scene, 1) != painter.draw_scene(scene, 1)).any()


def test_one_compilation_serves_many_prompts(painter):
    drawer = painter._drawer(2, {})
    painter.draw("Mara waves.", count=2)
    painter.draw(PROMPT, count=2)
    assert painter._drawer(2, {}) is drawer and drawer.run._cache_size() == 1


def command(capsys, *arguments):
    """Exit code, stdout and stderr."""
    code = sample.main(arguments)
    return (code, *capsys.readouterr())


def test_the_command_draws_a_row_for_each_entry(adpo_run, folder, capsys):
    entries = ("--entry=baseline", "--entry=align")
    subjects = ("--subject=mara.png", "--subject=ivo.jpg")
    code, out, err = command(capsys, f"--run={adpo_run}", *entries, f"--prompt={PROMPT}", *subjects, "--count=3")
    assert (code, err) == (0, "")
    assert out == f"samples.png: 2 portrait(s), 3 of {adpo_run} baseline, 3 of {adpo_run} align\n"
    with Image.open("samples.png") as picture:
        assert picture.size == (4 * (5 * 42 + 2), 4 * (2 * 42 + 2))
        assert picture.getpixel((4 * 22, 4 * 22)) == (200, 30, 30), "the portraits come first"
        assert picture.getpixel((4 * 64, 4 * 22))[2] > 150
        assert picture.getpixel((4 * 22, 4 * 64)) == (255, 255, 255), "and once"


def test_a_scene_of_the_embedded_world(adpo_run, folder, capsys):
    run = f"--run={adpo_run}"
    assert command(capsys, run, "--storybook=test:1", "--count=1", "--out=new/a.png")[0] == 0
    code, _, err = command(capsys, run, "--storybook=test:1", "--count=1", "--prompt=A dog waves to Zoë", "--out=b.png")
    assert (code, err) == (0, "this generator does not read everything; unknown words: a, dog, to, zoë\n")
    first, second = (np.asarray(Image.open(path)) for path in ("new/a.png", "b.png"))
    portraits = 42 * 4 * len(storybook_scenes("test", 2)[1].subjects)
    np.testing.assert_array_equal(first[:, :portraits], second[:, :portraits])
    assert (first != second).any()


def test_a_prompt_too_long_is_reported(adpo_run, folder, capsys):
    long = f"Mara{' waves in the forest' * 9}"
    code, _, err = command(capsys, f"--run={adpo_run}", f"--prompt={long}", "--count=1")
    assert (code, err) == (0, f"this generator does not read everything; truncated prompts: {long}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "prompt '': it says what to draw; give one"),
        (("--prompt=x", "--subject=nobody.png"), "image nobody.png: there is no nobody.png; correct the path"),
        (("--prompt=x", "--subject=text.png"), "image text.png: it is no readable picture"),
        (("--prompt=x", *["--subject=mara.png"] * 3), "3 portraits: this generator takes 2; give fewer"),
        (("--prompt=x", "--count=0"), "count 0: count is an integer ≥ 1"),
        (("--prompt=x", "--count=two"), "argument --count: invalid int value: 'two'; see --help"),
        (("--prompt=x", "--num-steps=0"), "num_steps 0: num_steps is an integer ≥ 1"),
        (("--prompt=x", "--guidance-scale=-1"), "guidance_scale -1.0: it is a number ≥ 0"),
        (("--prompt=x", "--entry=algin"), "unknown entry 'algin': known are baseline, align; did you mean 'align'?"),
        (("--prompt=x", "--entry=score"), "unknown entry 'score': known are baseline, align"),
        (("--prompt=x", "--run=nowhere"), "run nowhere: it is no run directory (no config.json)"),
        (("--prompt=x", "--run=", "--entry=align"), "entry 'align': it names a train entry of a run; name the run"),
        (("--prompt=x", "--out=mara.png/x.png"), "mara.png: it cannot be written"),
        (("--prompt=x", "--out=x.jpg"), "--out=x.jpg: it is a PNG file"),
        (("--storybook=test",), "--storybook=test: it is SPLIT:NUMBER; give one, e.g. test:3"),
        (("--storybook=tset:3",), "unknown split 'tset'"),
        (("--promt=x",), "unrecognized arguments: --promt=x; see --help"),
    ],
)
def test_bad_input(adpo_run, folder, capsys, arguments, message):
    (folder / "text.png").write_text("no picture")
    before = sorted(folder.iterdir())
    code = sample.main([f"--run={adpo_run}", *arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.count("\n") == 1 and message in err
    assert sorted(folder.iterdir()) == before


def test_unfinished_entries(adpo_run, tmp_path):
    run = shutil.copytree(adpo_run, tmp_path / "run")
    (run / "align" / "adapter.safetensors").unlink()
    with pytest.raises(InputError, match=r"entry 'align' of .*run: it had no pair to train on; take entry 'baseline'"):
        sample.load(run)
    (run / "align" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"it has not finished; take entry 'baseline', or run the rest"):
        sample.load(run, "align")
    assert len(sample.load(run, "baseline").params) > 0
    (run / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json: it is not the JSON that a run writes"):
        sample.load(run)


def test_portraits_in_memory(tmp_path):
    photo = np.zeros((30, 20, 3), np.uint8)
    photo[..., 0] = 200
    clear = Image.fromarray(np.dstack([photo, np.zeros((30, 20), np.uint8)]))
    scene = sample.own_scene("Mara waves", [photo, Image.fromarray(photo), jnp.asarray(photo), clear])
    seen = [subject.images[0] for subject in scene.subjects]
    assert all((each == photo).all() for each in seen[:3]) and (seen[3] == 255).all()


@pytest.mark.parametrize(
    ("portraits", "message"),
    [
        ("mara.png", r"portraits of type str: they are a list; write \[portrait\]"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"portraits of type ndarray: they are a list"),
        (
            [np.zeros((8, 8, 3), np.float32)],
            r"portrait 1 of 8 × 8 × 3 float32: .* uint8\[h, w, 3\]; multiply .* by 255",
        ),
        ([np.zeros((8, 8), np.uint8)], r"portrait 1 of 8 × 8 uint8: .*; give one picture, of three channels"),
        ([np.zeros((8, 8, 4), np.uint8)], r"portrait 1 of 8 × 8 × 4 uint8: .*; give one picture, of three channels"),
        ([np.zeros((3, 8, 8), np.uint8)], r"portrait 1 of 3 × 8 × 8 uint8: .*; move the channels to the end"),
        ([np.zeros((0, 8, 3), np.uint8)], r"portrait 1 of 0 × 8 × 3 uint8"),
        ([Image.new("F", (8, 8))], r"portrait 1: it is no readable picture \(nobody knows"),
        ([None], r"portrait 1 of type NoneType: a picture is a file, a PIL picture or an array"),
    ],
)
def test_portraits_that_are_none(portraits, message):
    with pytest.raises(InputError, match=message) as caught:
        sample.own_scene("Mara waves", portraits)
    assert "\n" not in str(caught.value)


def test_what_sampling_has_not():
    with pytest.raises(InputError, match=r"unknown option of sampling 'guidance': .*did you mean 'guidance_scale'"):
        sample.load().draw("Mara waves", guidance=3)
    with pytest.raises(InputError, match="prompt 7"):
        sample.own_scene(7)
