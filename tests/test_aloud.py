"""Counting what is said aloud of pictures, part by part."""

from collections import Counter

import numpy as np

from narrative_jax.data.sources import storybook_training_set
from narrative_jax.rewards.seen import describe_images, describe_unseen
from narrative_jax.study.aloud import counts, parts

SAID = (
    "Kim: brown skin, long ginger hair, red top hat, red coat, navy trousers; Noa: pale skin, short black hair, "
    "green bobble hat, blue coat, teal trousers. In the picture: Kim: brown skin, blurred long ginger hair, blurred "
    "red cap not red top hat, red coat, navy trousers, sitting, left arm missing, covered by somebody else; Noa is "
    "missing; somebody too many; in a blurred place, by moonlight; it is badly blurred or noisy."
)


def test_each_part_is_about_something():
    found = Counter(about for about, _ in parts(SAID))
    once = ("skin", "hair", "hat", "coat", "trousers", "what they do", "a part is missing", "cut off or covered")
    assert all(found[about] == 1 for about in (*once, "who is missing", "what is not as it should be"))
    assert found["portraits"] == 10 and found["place and style"] == found["how clean, somebody too many"] == 2
    assert sum(found.values()) == 24 and list(parts("")) == []


def test_a_part_counts_as_right_where_its_words_are_said_of_the_same_one():
    other = SAID.replace("covered by", "hidden by").replace("navy trousers, sitting", "teal trousers, sitting")
    found = counts([other, ""], [SAID, SAID])
    assert found["there"]["trousers"] == 2 and found["said"]["trousers"] == 1 and not found["right"]["trousers"]
    assert found["right"]["portraits"] == 10 == found["there"]["portraits"] / 2
    swapped = SAID.replace("Kim", "?").replace("Noa", "Kim").replace("?", "Noa")
    assert not counts([swapped], [SAID])["right"]["skin"]


def test_every_description_is_read_whole():
    examples = storybook_training_set("changed", 60).batch(range(60))
    scenes, images = [each.scene for each in examples], np.stack([each.target for each in examples])
    for scene, said in zip(scenes, describe_images(images, scenes), strict=True):
        found = Counter(about for about, _ in parts(said))
        of_people = len(scene.subjects) - found["who is missing"]
        assert all(found[about] == of_people for about in ("skin", "hair", "hat", "coat", "trousers", "what they do"))
        assert found["place and style"] == 2 and found["how clean, somebody too many"] >= 1
        others = said.count(" not ") - said.count("is not clean")
        assert sum(found.values()) == said.count(", ") + said.count("; ") + others + 2


def test_who_does_not_look_is_right_of_what_is_as_it_should_be():
    examples = storybook_training_set("true", 40).batch(range(40))
    scenes, images = [each.scene for each in examples], np.stack([each.target for each in examples])
    found = counts(describe_unseen(scenes), describe_images(images, scenes))
    assert found["right"]["portraits"] == found["there"]["portraits"] == found["said"]["portraits"]
    assert not found["said"]["what is not as it should be"] and not found["said"]["who is missing"]
    changed = storybook_training_set("changed", 40).batch(range(40))
    scenes, images = [each.scene for each in changed], np.stack([each.target for each in changed])
    other = counts(describe_unseen(scenes), describe_images(images, scenes))
    right = [each["right"]["hat"] / each["there"]["hat"] for each in (found, other)]
    assert right[1] < 0.8 < right[0]
