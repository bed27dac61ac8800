"""Pictures in words, as the oracle sees them."""

import re
from dataclasses import replace

import numpy as np
import pytest

from narrative_jax.core.images import to_float
from narrative_jax.data.sources import storybook_training_set
from narrative_jax.rewards.seen import describe_images
from narrative_jax.storybook.critiques import DOING, critique, faults
from narrative_jax.storybook.datasets import drawings
from narrative_jax.storybook.descriptions import aloud
from narrative_jax.storybook.oracle import judge
from narrative_jax.storybook.render import empty_drawing, render
from narrative_jax.storybook.world import LOCATIONS, STYLES

COUNT = 120


def told(kind, count=COUNT):
    """Facts, what is said aloud, a critique of identity, and the oracle's findings."""
    examples = storybook_training_set(kind, count).batch(range(count))
    scenes, images = [each.scene for each in examples], np.stack([each.target for each in examples])
    facts = [scene.facts for scene in scenes]
    findings = judge(to_float(images), facts).findings
    critiques = [critique("identity_consistency", *each) for each in zip(findings, facts, strict=True)]
    return list(zip(facts, zip(describe_images(images, scenes), critiques, strict=True), findings, strict=True))


@pytest.fixture(scope="module")
def raw():
    return told("raw")


def people(text, facts):
    """What is said of each portrait and of each character in the picture, by names, and the rest."""
    portraits, picture = text.removesuffix(".").split(". In the picture: ")
    clauses = picture.split("; ")
    count = len(facts.characters)
    named = [dict(re.fullmatch(r"(\w+)(?:: | is )(.+)", each).groups() for each in part[:count])
             for part in (portraits.split("; "), clauses)]  # fmt: skip
    return *named, clauses[count:]


def test_it_says_what_was_asked_for_where_nothing_is_wrong():
    for facts, (text, comparison), _ in told("true", 40):
        portraits, picture, (where, looks) = people(text, facts)
        assert where == f"{LOCATIONS[facts.location]}, {STYLES[facts.style]}" and looks == "it is clean"
        assert comparison == "Everyone looks as in the portrait."
        for character in facts.characters:
            has = character.attributes
            worn = f"{has['skin']} skin, {has['hair']} {has['hair_colour']} hair, {has['hat_colour']} {has['hat']}"
            assert portraits[character.name] == f"{worn}, {has['coat']} coat, {has['trousers']} trousers"
            assert picture[character.name].startswith(f"{portraits[character.name]}, {DOING[character.action]}")


def test_a_comparison_names_what_is_said_to_differ(raw):
    """An attribute that is said to be other than the portrait's; a copied pose is one of somebody who stands."""
    counts = {"other": 0, "copied": 0}
    for facts, (text, comparison), _ in raw:
        portraits, picture, _ = people(text, facts)
        for name, person in picture.items():
            if person == "missing":
                continue
            other = " not " in ", ".join(person.split(", ")[:5])
            worn = [each.partition(" not ") for each in person.replace("blurred ", "").split(", ")[:5]]
            assert ", ".join(asked or seen for seen, _, asked in worn) == portraits[name]
            assert all(seen != asked for seen, _, asked in worn)
            named = any(kind in ("attribute", "leak") and of.startswith(name) for kind, of in faults(comparison))
            assert named == other
            copied = ("copied", name) in faults(comparison)
            assert copied == (", standing not " in person)
            counts["other"] += other
            counts["copied"] += copied
    assert counts["other"] > 10 and counts["copied"] > 20


def test_what_cannot_be_seen_is_said(raw):
    """Each finding has its words."""
    facts, _, seen = next(each for each in raw if len(each[2].characters) == 2)
    first, second = seen.characters
    poor = replace(first, unreadable=("hat_colour", "hat", "skin"), action=None, missing_parts=("left arm",), covered=1)
    blind = replace(seen, characters=(poor,), missing=(second.name,), extra=1, location=None, style=None, distance=1)
    text = aloud(facts, replace(blind, alike=0.5))
    _, picture, rest = people(text, facts)
    assert picture[second.name] == "missing"
    told = picture[first.name].split(", ")
    assert told[0].startswith("blurred ") and told[2].startswith("blurred ") and "blurred" not in told[1]
    doing, *rest_of_person = told[5:]
    assert doing == f"in a blurred pose not {DOING[facts.characters[0].action]}"
    assert rest_of_person == ["left arm missing", "covered by somebody else"]
    assert rest == [
        "somebody too many",
        f"in a blurred place not {LOCATIONS[facts.location]}, in a blurred style not {STYLES[facts.style]}",
        "the picture is hardly recognisable",
        "hardly anything can be made out",
    ]
    cut = aloud(facts, replace(seen, characters=(replace(poor, cut=1), second)))
    assert "cut off at the edge" in cut and "arm missing" not in cut


def test_where_nobody_is_nobody_is_told_of():
    facts, drawing = drawings("train", range(4), 0)
    empty = empty_drawing(*drawing.present.shape)
    seen = judge(render(empty), facts).findings[0]
    text = aloud(facts[0], seen)
    _, picture, (_, looks) = people(text, facts[0])
    assert set(picture.values()) == {"missing"} and looks == "it is clean"
    assert "made out" not in text + critique("identity_consistency", seen, facts[0])
