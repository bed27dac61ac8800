"""Pictures in words, by what they were drawn from."""

import re

import numpy as np
import pytest

from narrative_jax.core.images import to_float
from narrative_jax.data.sources import storybook_training_set
from narrative_jax.rewards.oracle import describe_images
from narrative_jax.storybook.oracle import judge
from narrative_jax.storybook.world import LOCATIONS, STYLES


@pytest.fixture(scope="module")
def raw():
    found = storybook_training_set("raw", 120)
    return found.batch(range(120)), found.descriptions(range(120))


def test_a_description_says_what_was_asked_for_where_nothing_is_wrong():
    examples = storybook_training_set("true", 40)
    for example, (description, comparison) in zip(
        examples.batch(range(40)), examples.descriptions(range(40)), strict=True
    ):
        facts = example.scene.facts
        assert comparison == "Everyone looks as in the portrait."
        portraits, picture = description.rstrip(".").lower().split(". in the picture: ")
        *people, place = re.split("; ", picture)
        assert place == f"{LOCATIONS[facts.location]}, {STYLES[facts.style]}"
        assert len(people) == len(facts.characters)
        for character, portrait in zip(facts.characters, portraits.split("; "), strict=True):
            has = character.attributes
            seen = (f"{has['coat']} coat", f"a {has['hat_colour']} {has['hat']}", f"{has['trousers']} trousers")
            assert any(all(each in person for each in seen) for person in people)
            assert portrait.startswith(f"{character.name.lower()}: {has['skin']} skin")
            assert all(each in portrait for each in seen)


def test_the_left_one_comes_first():
    examples = storybook_training_set("true", 40)
    for example, (description, _), places in zip(
        examples.batch(range(40)), examples.descriptions(range(40)), examples.whereabouts(range(40)), strict=True
    ):
        for place, who in enumerate(np.argsort(places)):
            skin = example.scene.facts.characters[who].attributes["skin"]
            assert description.split("picture: ")[1].split("; ")[place].startswith(f"{skin} skin")


def test_a_comparison_says_what_the_oracle_finds(raw):
    """It names a difference, or a copied pose, where the judge does: in nearly all of raw pictures."""
    examples, words = raw
    found = judge(to_float(np.stack([each.target for each in examples])), [each.scene.facts for each in examples])
    agree = [
        (comparison != "Everyone looks as in the portrait.")
        == any(seen.wrong or seen.action == "stands" for seen in findings.characters)
        for findings, (_, comparison) in zip(found.findings, words, strict=True)
    ]
    assert np.mean(agree) > 0.95
    assert 20 < sum("copied from the portrait" in comparison for _, comparison in words) < 80
    assert sum(" instead of " in comparison for _, comparison in words) > 8


def test_what_was_drawn_is_described_as_the_oracle_reads_it(raw):
    """Nearly in the words that a picture was drawn from; differences are found in the same pictures."""
    examples, words = raw
    read, differences = zip(
        *describe_images(np.stack([each.target for each in examples]), [each.scene for each in examples]), strict=True
    )
    drawn, true = zip(*words, strict=True)
    assert np.mean([one == other for one, other in zip(read, drawn, strict=True)]) > 0.8
    alike = "Everyone looks as in the portrait."
    assert np.mean([(one == alike) == (other == alike) for one, other in zip(differences, true, strict=True)]) > 0.95
