"""Counting what is said aloud of pictures, part by part."""

import re
from collections import Counter

import numpy as np
import pytest

from narrative_jax.data.sources import storybook_training_set
from narrative_jax.rewards.oracle import judge_images
from narrative_jax.rewards.seen import describe_images, describe_unseen
from narrative_jax.storybook.critiques import THINGS
from narrative_jax.study.aloud import counts, parts

SAID = (
    "In the picture: 1: pale skin 1, short black hair 1, sitting; 2: brown skin 2, long blurred hair 2, red cap 2, "
    "red coat 2, navy trousers 2, sitting, left arm missing, covered by somebody else; in a blurred place, by "
    "moonlight; it is badly blurred or noisy. Kim: brown skin 2, long ginger hair nobody, red top hat nobody, red coat "
    "2, navy trousers 2; Noa: pale skin 1, short black hair 1, green bobble hat nobody, blue coat nobody, teal "
    "trousers nobody. Kim is 2: sitting not waving; Noa is missing; somebody too many; in a blurred place not in the "
    "town, by moonlight."
)


def test_each_part_is_about_something():
    found = Counter(about for about, _ in parts(SAID))
    once = ("hat", "coat", "trousers", "a part is missing", "cut off or covered", "how clean")
    twice = ("skin", "hair", "what they do", "place and style")
    assert all(found[about] == 1 for about in once) and all(found[about] == 2 for about in twice)
    assert found["portraits"] == 10 and found["who is who"] == 1 and found["missing, too many"] == 2
    others = [words for about, words in parts(SAID) if about == "what is not as it should be"]
    assert others == ["Kim hat", "Kim sitting", "in a blurred place"], "the hair is blurred, and Noa is missing"
    assert found["who wears the same"] == 10 and sum(found.values()) == 40


@pytest.mark.parametrize(
    "said",
    ["", "In the picture", "In the picture: 1: pale\nskin; x", "a. b: c. d is e: f", "1: ; : .", SAID[:200], SAID[60:]],
)
def test_whatever_is_said_is_read(said):
    assert sum(1 for _ in parts(said)) <= len(said)


def test_a_part_counts_as_right_where_its_words_are_said_of_the_same_one():
    other = SAID.replace("covered by", "hidden by").replace("navy trousers 2, sitting", "teal trousers 2, sitting")
    found = counts([other, ""], [SAID, SAID])
    assert found["there"]["trousers"] == 2 and found["said"]["trousers"] == 1 and not found["right"]["trousers"]
    assert found["right"]["portraits"] == 10 == found["there"]["portraits"] / 2
    swapped = SAID.replace("Kim is 2", "Noa is 2").replace("Noa is missing", "Kim is missing")
    renumbered = re.sub("[12]", lambda number: str(3 - int(number[0])), SAID)
    for other, by_name, coats, skins in ((swapped, False, 1, 2), (swapped, True, 0, 1), (renumbered, True, 1, 1)):
        found = counts([other], [SAID], by_name)["right"]
        assert (found["coat"], found["skin"]) == (coats, skins)
    assert counts([renumbered], [SAID])["right"]["coat"] == 0
    misplaced = counts([SAID.replace("red coat 2, navy trousers 2, s", "red coat 1, navy trousers, s")], [SAID])
    assert misplaced["said"]["coat"] == misplaced["said"]["trousers"] == 1
    assert not misplaced["right"]["coat"] and not misplaced["right"]["trousers"], "the number leads back to it"
    assert counts([f"{SAID} More."], [SAID])["said"]["what is no part of this"] == 1


def test_every_description_is_read_whole():
    examples = storybook_training_set("changed", 60).batch(range(60))
    scenes, images = [each.scene for each in examples], np.stack([each.target for each in examples])
    findings = judge_images(images, scenes).findings
    for scene, said, seen in zip(scenes, describe_images(images, scenes), findings, strict=True):
        found = Counter(about for about, _ in parts(said))
        people = said.partition(". ")[0].count(": ") - 1
        assert found["what they do"] == people and found["skin"] <= people
        assert found["place and style"] == 2 and found["how clean"] >= 1
        assert found["portraits"] == 5 * len(scene.subjects) <= 5 * (found["who is who"] + found["missing, too many"])
        assert found["who wears the same"] >= found["portraits"]
        others = said.count(" not ") - said.count("is not clean")
        others += sum(len({THINGS[each] for each in character.wrong}) for character in seen.characters)
        assert found["what is not as it should be"] == others


def test_who_does_not_look_is_right_of_what_is_as_it_should_be():
    examples = storybook_training_set("true", 40).batch(range(40))
    scenes, images = [each.scene for each in examples], np.stack([each.target for each in examples])
    found = counts(describe_unseen(scenes), describe_images(images, scenes), by_name=True)
    assert found["right"]["portraits"] == found["there"]["portraits"] == found["said"]["portraits"]
    assert not found["said"]["what is not as it should be"] and not found["said"]["missing, too many"]
    assert found["right"]["who wears the same"] > 0.9 * found["there"]["who wears the same"]
    changed = storybook_training_set("changed", 40).batch(range(40))
    scenes, images = [each.scene for each in changed], np.stack([each.target for each in changed])
    other = counts(describe_unseen(scenes), describe_images(images, scenes), by_name=True)
    for about in ("hat", "who wears the same"):
        right = [each["right"][about] / each["there"][about] for each in (found, other)]
        assert right[1] < 0.8 < right[0]
