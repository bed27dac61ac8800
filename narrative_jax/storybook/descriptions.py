"""What a picture shows, in words: known from what it was drawn from, nobody has to look."""

import numpy as np

from narrative_jax.storybook.critiques import ALIKE, DOING, unlike
from narrative_jax.storybook.render import Drawing
from narrative_jax.storybook.world import (
    ATTRIBUTE_NAMES,
    ATTRIBUTES,
    LOCATIONS,
    PORTRAIT_POSE,
    POSES,
    STYLES,
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


def _person(codes, pose):
    has = _values(codes)
    hair, hat = f"{has['hair']} {has['hair_colour']} hair", f"a {has['hat_colour']} {has['hat']}"
    return f"{has['skin']} skin, {hair}, {hat}, {has['coat']} coat, {has['trousers']} trousers, {_DOING[pose]}"


def _values(codes):
    """The words of an identity."""
    return {name: ATTRIBUTES[name][code] for name, code in zip(ATTRIBUTE_NAMES, codes, strict=True)}


def _sentence(parts):
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
