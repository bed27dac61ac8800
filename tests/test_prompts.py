"""Scenes for one's own characters: plain, by a language model, gone on with, and what is refused."""

import json
from pathlib import Path

import pytest
from PIL import Image

from narrative_jax import prompts
from narrative_jax.core.chat import ChatModel, UnfitError
from narrative_jax.core.errors import InputError
from narrative_jax.data.casting import drafts, read_cast
from narrative_jax.data.sources import read_scenes

LISTS = ("--actions=waves, reads", "--places=in the forest,by the castle", "--styles=in pastel")
SERVER = ("--url=http://localhost:1/v1", "--model=m")


@pytest.fixture
def cast(tmp_path, monkeypatch):
    """Three characters in a folder below the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    lines = []
    for shade, name in enumerate(("Mara", "Ivo", "Ödön")):
        Image.new("RGB", (20, 30), (80 * shade,) * 3).save(f"mine/{name}.png")
        lines.append({"name": name, "class_word": "character", "images": [f"{name}.png"]})
    lines[0]["description"] = "A baker with a red scarf."
    Path("mine/cast.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return "--cast=mine/cast.jsonl"


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_plain_prompts_are_scenes_that_configs_take(cast, capsys):
    assert prompts.main([cast, "--out=scenes.jsonl", "--count=20", *LISTS]) == 0
    assert "scenes.jsonl: 20 scenes" in capsys.readouterr().out
    scenes = read_scenes("scenes.jsonl")
    assert [scene.id for scene in scenes] == [str(number) for number in range(20)]
    assert {len(scene.subjects) for scene in scenes} == {1, 2}
    assert {subject.name for scene in scenes for subject in scene.subjects} == {"Mara", "Ivo", "Ödön"}
    for scene in scenes:
        for subject in scene.subjects:
            assert any(f"{subject.name} {does}" in scene.prompt for does in ("waves", "reads"))
        assert scene.prompt.endswith(", in pastel.") and (" in the forest" in scene.prompt) != (
            " by the" in scene.prompt
        )
    again = Path("scenes.jsonl").read_bytes()
    assert prompts.main([cast, "--out=scenes.jsonl", "--count=30", *LISTS]) == 0
    assert Path("scenes.jsonl").read_bytes().startswith(again) and len(lines("scenes.jsonl")) == 30


def test_drafts_stay_as_there_are_more_of_them(cast):
    found = read_cast("mine/cast.jsonl")
    options = (2, ["waves"], [], ["in pastel"], 5)
    few, many = (drafts(found, count, *options) for count in (5, 50))
    assert many[:5] == few and len({each.characters for each in many}) > 5
    assert drafts(found, 5, *options[:-1], 6) != few
    assert {each.prompt for each in many if len(each.characters) == 1} <= {
        f"{each.name} waves, in pastel." for each in found
    }


@pytest.fixture
def answers(monkeypatch):
    """What a model is asked; it answers with the names, and fails from the question of number "fails" on."""
    told = {"asked": [], "fails": 10**9}

    def answer(self, content, about, kind, schema, read):
        told["asked"].append("\n".join(part["text"] for part in content))
        if len(told["asked"]) > told["fails"]:
            raise InputError("the server", "it is gone", "start it")
        names = [name for name in ("Mara", "Ivo", "Ödön") if f"{name}: a character" in told["asked"][-1]]
        for wrong in (None, {"prompt": ""}, {"prompt": "Nobody."}, {"prompt": "x" * 400}, {"text": "x"}):
            with pytest.raises(UnfitError):
                read(wrong)
        return read({"prompt": f"  Look,\n{' and '.join(names)}! "})

    monkeypatch.setattr(ChatModel, "answer", answer)
    return told


def test_a_language_model_puts_drafts_into_words(cast, answers):
    assert prompts.main([cast, "--out=scenes.jsonl", "--count=6", *LISTS, *SERVER]) == 0
    found = read_scenes("scenes.jsonl")
    assert all(scene.prompt.startswith("Look, ") and scene.prompt.endswith("!") for scene in found)
    assert any("Mara: a character. A baker with a red scarf." in each for each in answers["asked"])
    assert all("Where: " in each and "Style: in pastel" in each for each in answers["asked"])


def test_what_was_answered_is_not_asked_again(cast, answers, capsys):
    command = [cast, "--out=scenes.jsonl", "--count=12", *LISTS, *SERVER]
    answers["fails"] = 5
    assert prompts.main(command) == 2
    assert "the server: it is gone" in capsys.readouterr().err
    kept = lines("scenes.jsonl")
    assert len(kept) == 5
    answers.update(asked=[], fails=10**9)
    assert prompts.main(command) == 0
    assert len(answers["asked"]) == 7 and len(lines("scenes.jsonl")) == 12
    assert [each for each in lines("scenes.jsonl") if each in kept] == kept


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--actions="], "actions none"),
        (["--count=0"], "count 0"),
        (["--most=0"], "most 0"),
        (["--model=m"], "--model=m: it is a server's"),
        (["--url=localhost"], "url 'localhost'"),
        (["--cast=gone.jsonl"], "gone.jsonl"),
    ],
)
def test_bad_flags(cast, capsys, flags, message):
    assert prompts.main([cast, "--out=scenes.jsonl", *LISTS, *flags]) == 2
    assert message in capsys.readouterr().err and not Path("scenes.jsonl").exists()


def test_a_file_of_something_else_is_kept(cast, capsys):
    command = [cast, "--out=scenes.jsonl", *LISTS]
    assert prompts.main([*command, "--count=9"]) == 0
    before = Path("scenes.jsonl").read_bytes()
    others = (["--count=8"], ["--seed=1"], ["--actions=sits"], ["--styles="], ["--model=m", "--url=http://localhost:1"])
    for flags in (["--count=9", *each] for each in others):
        assert prompts.main([*command, *flags]) == 2
        assert "scenes.jsonl:" in (said := capsys.readouterr().err) and "or another --out" in said
    assert Path("scenes.jsonl").read_bytes() == before
    Path("scenes.jsonl").write_text('{"prompt": "x"}')
    assert prompts.main([*command, "--count=9"]) == 2 and "'id' is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"class_word": "x", "images": ["Mara.png"]}, "cast.jsonl:4: 'name' is missing"),
        ({"name": "Mara", "class_word": "x", "images": ["Mara.png"]}, "a character of that name is there already"),
        ({"name": "Ann", "class_word": "x", "images": ["gone.png"]}, "there is no"),
        ({"name": "Ann", "class_word": "x", "images": [1]}, "an image is a path"),
        ({"name": "Ann", "class_word": "x", "images": ["Mara.png"], "age": 3}, "age"),
    ],
)
def test_a_cast_that_is_none(cast, line, message):
    with Path("mine/cast.jsonl").open("a") as file:
        file.write(f"\n{json.dumps(line)}")
    with pytest.raises(InputError, match=message):
        read_cast("mine/cast.jsonl")
