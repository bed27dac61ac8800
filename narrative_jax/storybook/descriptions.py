"""What portraits and a picture show, in words: known from what it was drawn from, or as the oracle sees it."""

from collections.abc import Sequence

import numpy as np

from narrative_jax.storybook.critiques import ALIKE, DOING, critique, unlike
from narrative_jax.storybook.oracle import compare
from narrative_jax.storybook.parse import parse
from narrative_jax.storybook.render import Drawing
from narrative_jax.storybook.world import (
    ATTRIBUTE_NAMES,
    ATTRIBUTES,
    LOCATIONS,
    PORTRAIT_POSE,
    POSES,
    STYLES,
    WORLD,
    Facts,
    identity_codes,
)

_DOING = {**DOING, PORTRAIT_POSE: "standing"}


def description(drawing: Drawing, row: int) -> str:
    """Who is in a picture of a drawing, from left to right, wearing what and doing what, where and in which style."""
    present = np.flatnonzero(drawing.present[row])
    slots = present[np.argsort(drawing.places[row, present, 0], kind="stable")]
    people = [_person(drawing.identities[row, slot], POSES[drawing.poses[row, slot]]) for slot in slots]
    place, style = list(LOCATIONS.values())[drawing.locations[row]], list(STYLES.values())[drawing.styles[row]]
    return _sentence([*people, f"{place}, {style}"])


def aloud(facts: Facts, described: str) -> str:
    """What the portraits of a scene show, by names, and then the `description` of a picture."""
    portraits = "; ".join(f"{each.name}: {_worn(each.attributes)}" for each in facts.characters)
    return f"{portraits}. In the picture: {described[0].lower()}{described[1:]}"


def comparison(facts: Facts, true: Drawing, shown: Drawing, row: int) -> str:
    """How those whom a picture shows differ from their portraits; `true` is the drawing that a scene asks for."""
    faults = []
    for character in facts.characters:
        codes = identity_codes(character.attributes)
        slot = (true.identities[row] == codes).all(-1).argmax()
        values = _values(shown.identities[row, slot])
        faults += [
            unlike(character.name, name, values[name], asked)
            for name, asked in character.attributes.items()
            if values[name] != asked
        ]
        if POSES[shown.poses[row, slot]] == PORTRAIT_POSE:
            faults.append(f"{character.name} is copied from the portrait")
    return _sentence(faults or [ALIKE])


def seen_descriptions(pictures: np.ndarray, all_facts: Sequence[Facts]) -> list[tuple[str, str]]:
    """`aloud`, and the comparison, of pictures f32[b, 40, 40, 3] in [-1, 1] of scenes, as the oracle reads them.

    The differences are its findings on identity. Raises InputError.
    """
    seen = parse(pictures, WORLD.max_characters + 1)
    findings = compare(seen, all_facts).findings
    return [
        (aloud(facts, description(seen.drawing, row)), critique("identity_consistency", found, facts))
        for row, (found, facts) in enumerate(zip(findings, all_facts, strict=True))
    ]


def _person(codes, pose):
    return f"{_worn(_values(codes))}, {_DOING[pose]}"


def _worn(has):
    hair, hat = f"{has['hair']} {has['hair_colour']} hair", f"a {has['hat_colour']} {has['hat']}"
    return f"{has['skin']} skin, {hair}, {hat}, {has['coat']} coat, {has['trousers']} trousers"


def _values(codes):
    """The words of an identity."""
    return {name: ATTRIBUTES[name][code] for name, code in zip(ATTRIBUTE_NAMES, codes, strict=True)}


def _sentence(parts):
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
