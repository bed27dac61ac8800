"""Pictures in words, as the oracle sees them."""

from dataclasses import replace

import numpy as np
import pytest

from narrative_jax.core.images import to_float
from narrative_jax.data.sources import storybook_training_set
from narrative_jax.rewards.seen import describe_images, describe_pictures
from narrative_jax.storybook.critiques import DOING, critique, faults
from narrative_jax.storybook.datasets import drawings
from narrative_jax.storybook.descriptions import aloud
from narrative_jax.storybook.oracle import judge
from narrative_jax.storybook.render import empty_drawing, render
from narrative_jax.storybook.world import ATTRIBUTES, LOCATIONS, STYLES

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


def told_apart(text, facts):
    """What is said of figures by numbers, the rest of the picture, portraits by name, what beside each figure is right
    of somebody and who it is, by name, and what is asked.
    """
    picture, portraits, compared = text.removeprefix("In the picture: ").removesuffix(".").split(". ")
    clauses, compared = picture.split("; "), compared.split("; ")
    figures = dict(each.split(": ") for each in clauses if ": " in each)
    rest = [each for each in clauses if ": " not in each]
    people = {}
    for each in facts.characters:
        beside = dict(compared.pop(0).split(f" as {each.name}: ") for _ in figures)
        assert list(beside) == list(figures)
        people[each.name] = beside, compared.pop(0)
    return figures, rest, dict(each.split(": ") for each in portraits.split("; ")), people, compared


def test_it_says_what_was_asked_for_where_nothing_is_wrong():
    seen_whole = 0
    for facts, (text, comparison), _ in told("true", 40):
        figures, (where, looks), portraits, people, asked = told_apart(text, facts)
        assert asked == [where] == [f"{LOCATIONS[facts.location]}, {STYLES[facts.style]}"] and looks == "it is clean"
        assert comparison == "Everyone looks as in the portrait."
        for character in facts.characters:
            has = character.attributes
            worn = f"{has['skin']} skin, {has['hair']} {has['hair_colour']} hair, {has['hat_colour']} {has['hat']}"
            assert portraits[character.name] == f"{worn}, {has['coat']} coat, {has['trousers']} trousers"
            beside, said = people[character.name]
            number, doing = said.removeprefix(f"{character.name} is ").split(": ")
            figure, things = figures[number].split(", "), beside[number].split(", ")
            assert doing == DOING[character.action] == figure[len(things)]
            assert all(each.startswith("right ") for each in things)
            if len(things) == 5:
                assert ", ".join(figure[:5]) == portraits[character.name]
                seen_whole += 1
    assert seen_whole > 40


def test_figures_are_told_of_from_left_to_right():
    _, drawing = drawings("train", range(40), 0)
    for row, (facts, (text, _), _) in enumerate(told("true", 40)):
        figures, *_ = told_apart(text, facts)
        present = np.flatnonzero(drawing.present[row])
        across = present[np.argsort(drawing.places[row, present, 0])]
        skins = [ATTRIBUTES["skin"][code] for code in drawing.identities[row, across, 0]]
        assert list(figures) == [str(number) for number in range(1, len(across) + 1)]
        assert [each.split(" skin")[0] for each in figures.values()] == skins


def test_a_picture_is_told_of_in_the_same_words_whatever_was_asked_for():
    examples = storybook_training_set("changed", 30).batch(range(30))
    scenes, images = [each.scene for each in examples], np.stack([each.target for each in examples])
    alone = describe_pictures(images, scenes)
    assert alone == describe_pictures(images, scenes[1:] + scenes[:1])
    assert all(said.startswith(f"{each} ") for said, each in zip(describe_images(images, scenes), alone, strict=True))


def test_a_comparison_names_what_is_said_to_differ(raw):
    """An attribute that is said to be other than the portrait's; a copied pose is one of somebody who stands.

    It is the same beside each figure, whosever it is.
    """
    counts = {"other": 0, "copied": 0}
    for facts, (text, comparison), _ in raw:
        figures, _, portraits, people, _ = told_apart(text, facts)
        for name, (beside, said) in people.items():
            own, _, doing = said.removeprefix(f"{name} is ").partition(": ")
            portrait = {each.split()[-1].replace("cap", "hat"): each for each in portraits[name].split(", ")}
            for number, things in beside.items():
                for thing, seen in zip(things.split(", "), figures[number].split(", "), strict=False):
                    verdict, noun = thing.split(" ")
                    # Of what is half in sight, a half is right.
                    assert (seen == portrait[noun]) <= (verdict == "right")
                    assert verdict != "wrong" or seen != portrait[noun]
                    assert (verdict == "blurred") <= ("blurred" in seen)
            if said == f"{name} is missing":
                continue
            things = beside[own].split(", ")
            other = any(each.startswith("wrong") for each in things)
            assert other == any(
                kind in ("attribute", "leak") and of.startswith(name) for kind, of in faults(comparison)
            )
            copied = ("copied", name) in faults(comparison)
            assert copied == doing.startswith("standing not ")
            counts["other"] += other
            counts["copied"] += copied
    assert counts["other"] > 10 and counts["copied"] > 20


def test_what_cannot_be_seen_is_said(raw):
    """Each finding has its words."""
    facts, _, seen = next(each for each in raw if len(each[2].figures) == len(each[2].characters) == 2)
    first, second = seen.characters
    figure, stranger = sorted(seen.figures, key=lambda each: each.name != first.name)
    poor = replace(first, unreadable=("hat_colour", "hat", "skin"), action=None)
    has = {**figure.has, "hat_colour": None, "hat": None, "skin": None}
    dim = replace(figure, has=has, action=None, missing_parts=("left arm",), covered=1)
    unasked = replace(stranger, name="", has={"coat": "red", "hair_colour": "black", "hat_colour": "green"})
    blind = replace(seen, characters=(poor,), missing=(second.name,), figures=(unasked, dim), extra=1,
                    location=None, style=None, distance=1, alike=0.5)  # fmt: skip
    figures, rest, _, people, asked = told_apart(aloud(facts, blind), facts)
    assert people[second.name][1] == f"{second.name} is missing"
    assert people[second.name][0]["2"].startswith("blurred skin, ")
    beside, said = people[first.name]
    things = beside["2"].split(", ")
    assert things[0] == "blurred skin" and "blurred hat" in things
    assert said == f"{first.name} is 2: in a blurred pose not {DOING[facts.characters[0].action]}"
    told = figures["2"].split(", ")
    assert told[0] == "blurred skin" and "blurred blurred hat" in told
    assert told[-3:] == ["in a blurred pose", "left arm missing", "covered by somebody else"]
    assert figures["1"].startswith("black hair, green hat, red coat, ")
    assert asked == [
        "somebody too many",
        f"in a blurred place not {LOCATIONS[facts.location]}, in a blurred style not {STYLES[facts.style]}",
    ]
    assert rest == [
        "in a blurred place, in a blurred style",
        "the picture is hardly recognisable",
        "hardly anything can be made out",
    ]
    cut = aloud(facts, replace(blind, figures=(unasked, replace(dim, cut=1))))
    assert "cut off at the edge" in cut and "arm missing" not in cut


def test_where_nobody_is_nobody_is_told_of():
    facts, drawing = drawings("train", range(4), 0)
    empty = empty_drawing(*drawing.present.shape)
    seen = judge(render(empty), facts).findings[0]
    text = aloud(facts[0], seen)
    figures, (_, looks), _, people, _ = told_apart(text, facts[0])
    assert not figures and looks == "it is clean"
    assert all(said == ({}, f"{name} is missing") for name, said in people.items())
    assert "made out" not in text + critique("identity_consistency", seen, facts[0])
