"""Pictures in words, as the oracle sees them."""

import re
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
    """What is said of figures by numbers, the rest of the picture, of portraits by name each thing and whose is the
    same, who somebody is, by name, and what is asked.
    """
    picture, portraits, people = text.removeprefix("In the picture: ").removesuffix(".").split(". ")
    clauses, people = picture.split("; "), people.split("; ")
    figures = dict(each.split(": ") for each in clauses if ": " in each)
    rest = [each for each in clauses if ": " not in each]
    who = {each.name: people.pop(0) for each in facts.characters}
    worn = {}
    for name, things in (each.split(": ") for each in portraits.split("; ")):
        worn[name] = dict(re.fullmatch(r"(.+?) (nobody|[\d ]+)", each).groups() for each in things.split(", "))
    return figures, rest, worn, who, people


def test_it_says_what_was_asked_for_where_nothing_is_wrong():
    seen_whole = 0
    for facts, (text, comparison), _ in told("true", 40):
        figures, (where, looks), portraits, people, asked = told_apart(text, facts)
        assert asked == [where] == [f"{LOCATIONS[facts.location]}, {STYLES[facts.style]}"] and looks == "it is clean"
        assert comparison == "Everyone looks as in the portrait."
        for character in facts.characters:
            has = character.attributes
            worn = f"{has['skin']} skin, {has['hair']} {has['hair_colour']} hair, {has['hat_colour']} {has['hat']}"
            things = portraits[character.name]
            assert ", ".join(things) == f"{worn}, {has['coat']} coat, {has['trousers']} trousers"
            number, doing = people[character.name].removeprefix(f"{character.name} is ").split(": ")
            figure = figures[number].split(", ")
            shown = [each.removesuffix(f" {number}") for each in figure if each.endswith(f" {number}")]
            assert doing == DOING[character.action] == figure[len(shown)]
            if len(shown) == 5:
                assert shown == list(things) and all(number in same for same in things.values())
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


def noun(words):
    """The thing that some words are about."""
    return words.split()[-1].replace("cap", "hat")


def test_a_comparison_names_what_is_said_to_differ(raw):
    """An attribute that is said to be other than the portrait's; a copied pose is one of somebody who stands.

    Whose things are the same is said of each figure, whosever it is.
    """
    counts = {"other": 0, "copied": 0, "somebody else's": 0}
    for facts, (text, comparison), _ in raw:
        figures, _, portraits, people, _ = told_apart(text, facts)
        worn = {number: {} for number in figures}
        for number, shown in figures.items():
            things = [each.removesuffix(f" {number}") for each in shown.split(", ") if each.endswith(f" {number}")]
            worn[number] = {noun(words): words for words in things}
        for name, said in people.items():
            own, _, doing = said.removeprefix(f"{name} is ").partition(": ")
            other, blurred = set(), set()
            for words, same in portraits[name].items():
                thing = noun(words)
                assert same == (" ".join(n for n in figures if worn[n].get(thing) == words) or "nobody")
                counts["somebody else's"] += any(number in same for number in figures if number != own)
                seen = {*worn.get(own, {}).get(thing, "").split()}
                other |= {f"{name}'s {thing}"} if seen - {"blurred", "hat"} - {*words.split()} else set()
                blurred |= {f"{name}'s {thing}"} if "blurred" in seen else set()
            if said == f"{name} is missing":
                continue
            named = [(kind, of) for kind, of in faults(comparison) if of.startswith(name)]
            assert {of for kind, of in named if kind in ("attribute", "leak")} == other
            assert {of for kind, of in named if kind == "unclear"} == blurred
            copied = ("copied", name) in named
            assert copied == doing.startswith("standing not ")
            counts["other"] += bool(other)
            counts["copied"] += copied
    assert counts["other"] > 10 and counts["copied"] > 20 and counts["somebody else's"] > 10


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
    figures, rest, portraits, people, asked = told_apart(aloud(facts, blind), facts)
    assert people[second.name] == f"{second.name} is missing"
    for things in portraits.values():
        skin, *others = things.items()
        assert "2" not in skin[1] and not any("2" in same for words, same in others if words.endswith(("hat", "cap")))
    assert people[first.name] == f"{first.name} is 2: in a blurred pose not {DOING[facts.characters[0].action]}"
    told = figures["2"].split(", ")
    assert told[0] == "blurred skin 2" and "blurred blurred hat 2" in told
    assert told[-3:] == ["in a blurred pose", "left arm missing", "covered by somebody else"]
    assert figures["1"].startswith("black hair 1, green hat 1, red coat 1, ")
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
    figures, (_, looks), portraits, people, _ = told_apart(text, facts[0])
    assert not figures and looks == "it is clean"
    assert all(said == f"{name} is missing" for name, said in people.items())
    assert {same for things in portraits.values() for same in things.values()} == {"nobody"}
    assert "made out" not in text + critique("identity_consistency", seen, facts[0])
