import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.storybook import world
from narrative_jax.storybook.world import ATTRIBUTES, SPLITS, WORLD, Character, Facts, World, caption, is_unseen


def sample(split="train", count=200, in_world=WORLD):
    return [in_world.facts(split, 0, index) for index in range(count)]


def test_at_least_six_attributes_of_four_values():
    assert len(ATTRIBUTES) >= 6
    assert min(map(len, ATTRIBUTES.values())) >= 4


def test_scenes_repeat_and_vary():
    assert sample() == sample()
    facts = sample()
    assert {len(f.characters) for f in facts} == {1, 2}
    assert {f.location for f in facts} == set(world.LOCATIONS)
    assert {f.style for f in facts} == set(world.STYLES)
    assert {c.action for f in facts for c in f.characters} == set(world.ACTIONS)


def test_a_tenth_of_the_combinations_is_held_out_of_training():
    """14 of 144, evenly: no two share more than a word, and each word has its part."""
    held_out = [
        (action, place, style)
        for action in world.ACTIONS
        for place in world.LOCATIONS
        for style in world.STYLES
        if is_unseen(Facts((Character("Mara", {}, action),), place, style))
    ]
    assert len(held_out) == 14
    for left, right in combinations(held_out, 2):
        assert sum(a == b for a, b in zip(left, right, strict=True)) <= 1
    for words, kinds in zip(zip(*held_out, strict=True), (world.ACTIONS, world.LOCATIONS, world.STYLES), strict=True):
        assert set(words) == set(kinds)
    assert not any(map(is_unseen, sample(count=2000)))


@pytest.mark.parametrize("split", ["tune", "test"])
def test_every_second_scene_is_unseen(split):
    assert list(map(is_unseen, sample(split))) == [False, True] * 100
    two = [facts for facts in sample(split) if is_unseen(facts) and len(facts.characters) == 2]
    alone = [[is_unseen(replace(facts, characters=(each,))) for each in facts.characters] for facts in two]
    assert [True, False] in alone and [False, True] in alone, "one character's combination is enough"


def test_splits_share_no_identity_and_no_scene():
    identities = [set(world.split_identities(split).tolist()) for split in SPLITS]
    assert sum(map(len, identities)) == len(set.union(*identities)) == world.NUM_IDENTITIES
    scenes = [{str(f) for f in sample(split)} for split in SPLITS]
    assert not (scenes[0] & scenes[1] or scenes[0] & scenes[2] or scenes[1] & scenes[2])


def test_sampled_identities_belong_to_their_split():
    for split in SPLITS:
        own = set(world.split_identities(split).tolist())
        for facts in sample(split, 50):
            for character in facts.characters:
                codes = world.identity_codes(character.attributes)
                assert int(np.ravel_multi_index(codes, world.NUM_VALUES)) in own


def test_captions_tell_deeds_place_and_style_but_no_attribute():
    words = {w for name, values in ATTRIBUTES.items() for v in (name, *values) for w in re.findall(r"[a-z]+", v)}
    for facts in sample():
        for place_first in (False, True):
            text = caption(facts, place_first)
            assert not words & set(re.findall(r"[a-z]+", text.lower()))
            assert all(f"{c.name} {c.action}" in text for c in facts.characters)
            assert world.LOCATIONS[facts.location].lower() in text.lower()
            assert world.STYLES[facts.style] in text
            places = [text.index(c.name) for c in facts.characters]
            assert places == sorted(places), "names stand in the order of the portraits"


def test_a_caption_reads_well():
    facts = Facts((Character("Mara", {}, "waves"), Character("Ivo", {}, "sits")), location="beach", style="pastel")
    assert caption(facts) == "Mara waves and Ivo sits on the beach, in pastel."
    assert caption(facts, place_first=True) == "On the beach, Mara waves while Ivo sits, in pastel."


def test_three_characters_by_changing_a_number():
    crowd = World(max_characters=3)
    facts = sample(in_world=crowd)
    assert {len(f.characters) for f in facts} == {1, 2, 3}
    for f in facts:
        crowd.check(f)
    with pytest.raises(InputError, match=r"3 characters.*allows 1 to 2.*max_characters"):
        WORLD.check(next(f for f in facts if len(f.characters) == 3))


@pytest.mark.parametrize("seed", [1.0, "1", True, -1, None])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(InputError, match=r"seed .*integer ≥ 0.*give one"):
        WORLD.facts("train", seed, 0)


def test_numpy_integers_are_integers():
    assert WORLD.facts("train", np.int64(0), np.int32(3)) == WORLD.facts("train", 0, 3)


def changed(**attributes):
    facts = WORLD.facts("train", 0, 0)
    first = facts.characters[0]
    return Facts(
        (Character(first.name, {**first.attributes, **attributes}, first.action),), facts.location, facts.style
    )


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (Facts((), "beach", "pastel"), r"0 characters.*allows 1 to 2"),
        (changed(coat="rde"), r"unknown coat .*'rde'.*did you mean 'red'"),
        (changed(shoes="red"), r"unknown attribute 'shoes'.*known are skin"),
        (Facts(changed().characters, "beech", "pastel"), r"unknown location 'beech'.*did you mean 'beach'"),
        (Facts(changed().characters, "beach", "oil"), r"unknown style 'oil'.*known are gouache"),
        (
            Facts((Character("Ivo", changed().characters[0].attributes, "stands"),), "beach", "pastel"),
            r"unknown action",
        ),
        (Facts((Character("Ivo", {"skin": "pale"}, "sits"),), "beach", "pastel"), r"Ivo without attribute 'hair'"),
    ],
)
def test_facts_of_another_world_are_refused(facts, message):
    with pytest.raises(InputError, match=message):
        WORLD.check(facts)


def test_unknown_split():
    with pytest.raises(InputError, match=r"unknown split 'tset'.*did you mean 'test'"):
        WORLD.facts("tset", 0, 0)


def test_more_characters_than_names():
    with pytest.raises(InputError, match=r"max_characters 99.*8 names"):
        World(max_characters=99)
