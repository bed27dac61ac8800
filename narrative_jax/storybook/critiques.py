"""Findings in words: what a rater would write about one aspect of a picture."""

import re

from narrative_jax.storybook.oracle import Findings
from narrative_jax.storybook.world import LOCATIONS, PORTRAIT_POSE, STYLES, Facts

DOING = {
    "waves": "waving",
    "cheers": "cheering",
    "sits": "sitting",
    "jumps": "jumping",
    "walks": "walking",
    "reads": "reading",
}
THINGS = {
    "skin": "skin",
    "hair": "hair",
    "hair_colour": "hair",
    "hat": "hat",
    "hat_colour": "hat",
    "coat": "coat",
    "trousers": "trousers",
}
_PRAISE = {
    "prompt_following": "everyone asked for is there and does what was asked, in the right place and style",
    "identity_consistency": "everyone looks as in the portrait",
    "visual_quality": "a clean picture, complete and well composed",
}
_BLEMISHES = (
    (0.16, "the picture is hardly recognisable"),
    (0.09, "it is badly blurred or noisy"),
    (0.05, "it is not clean"),
)
HIDDEN = 0.1  # share of a figure that a rater calls cut off or covered


# What a fault is one of, and whose or of whom, by its words; the first that fits.
_KINDS = (
    ("unclear", r"(\w+'s .+) cannot be made out|one cannot tell whether (\w+) .+"),
    ("unclear", r"(?:hardly anything can|the (?:place|style) cannot) be made out|nobody can be recognised"),
    ("copied", r"(\w+) is copied from the portrait"),
    ("cut", r"(\w+) is cut off at the edge"),
    ("covered", r"(\w+) is covered by somebody else"),
    ("no figure", "there is no figure in it"),
    ("unclean", "the picture is hardly recognisable|it is badly blurred or noisy|it is not clean"),
    ("part", r"(\w+'s .+) is missing"),
    ("missing", r"(\w+) is missing"),
    ("too many", "somebody too many is in the picture"),
    ("leak", r"(\w+'s \w+) (?:is .+'s .+|is .+ like .+'s|has taken .+|have taken .+)"),
    ("attribute", r"(\w+'s \w+) (?:is|are) .+ instead of .+"),
    ("action", r"(\w+) .+ instead of .+"),
    ("place", "the scene is .+, not .+"),
    ("style", "it is .+, not .+"),
)


def faults(critique: str) -> set[tuple[str, str]]:
    """What a critique in these words names: each fault's kind, and of whom or of what of theirs it is, "" of nobody's.

    What is there instead does not count. Praise names none; words that are none of these are of kind "other".
    """
    found = set()
    for clause in critique.strip().removesuffix(".").split("; "):
        lowered = f"{clause[:1].lower()}{clause[1:]}"
        if lowered in ("", *_PRAISE.values()):
            continue
        fits = ((kind, re.fullmatch(words, clause, re.IGNORECASE)) for kind, words in _KINDS)
        kind, match = next(((kind, match) for kind, match in fits if match), ("other", None))
        found.add((kind, next(filter(None, match.groups()), "") if match else ""))
    return found


def critique(aspect: str, seen: Findings, asked: Facts) -> str:
    """One sentence or more on an aspect, faults only; praise where there are none."""
    found = {
        "prompt_following": _prompt_faults,
        "identity_consistency": _identity_faults,
        "visual_quality": _quality_faults,
    }[aspect]
    text = "; ".join(found(seen, asked)) or _PRAISE[aspect]
    return f"{text[0].upper()}{text[1:]}."


def blemish(seen: Findings) -> str:
    """How a picture that is not clean looks, "" for a clean one."""
    return next((text for limit, text in _BLEMISHES if seen.distance > limit), "")


def obscured(seen: Findings) -> str:
    """That a picture, being hardly one of this world, shows hardly anything; "" for others and where nobody is seen."""
    return "hardly anything can be made out" if seen.characters and seen.alike < 1 else ""


def _instead(name, attribute, value, asked):
    verb, article = ("are" if attribute == "trousers" else "is"), ("a " if attribute == "hat" else "")
    return f"{name}'s {THINGS[attribute]} {verb} {article}{value} instead of {article}{asked}"


def _prompt_faults(seen, asked):
    yield from _unlike(seen)
    wanted = {character.name: character.action for character in asked.characters}
    for name in seen.missing:
        yield f"{name} is missing"
    if seen.extra:
        yield "somebody too many is in the picture"
    for character in seen.characters:
        action = wanted[character.name]
        if character.action is None:
            yield f"one cannot tell whether {character.name} {action}"
        elif character.action == PORTRAIT_POSE:
            yield f"{character.name} just stands there instead of {DOING[action]}"
        elif character.action != action:
            yield f"{character.name} {character.action} instead of {DOING[action]}"
    if seen.location is None:
        yield "the place cannot be made out"
    elif seen.location != asked.location:
        yield f"the scene is {LOCATIONS[seen.location]}, not {LOCATIONS[asked.location]}"
    if seen.style is None:
        yield "the style cannot be made out"
    elif seen.style != asked.style:
        yield f"it is {STYLES[seen.style]}, not {STYLES[asked.style]}"


def _identity_faults(seen, asked):
    attributes = {character.name: character.attributes for character in asked.characters}
    yield from _unlike(seen)
    if not seen.characters:
        yield "nobody can be recognised"
    for character in seen.characters:
        for thing in dict.fromkeys(THINGS[attribute] for attribute in character.unreadable):
            yield f"{character.name}'s {thing} cannot be made out"
        for attribute, value in character.wrong.items():
            owner, thing = character.leaked.get(attribute), f"{character.name}'s {THINGS[attribute]}"
            has = "have" if attribute == "trousers" else "has"
            if owner and attribute in ("hair", "hat"):
                yield f"{thing} is {owner}'s {value}" if attribute == "hat" else f"{thing} is {value} like {owner}'s"
            elif owner:
                yield f"{thing} {has} taken {owner}'s colour"
            else:
                yield _instead(character.name, attribute, value, attributes[character.name][attribute])
        if character.action == PORTRAIT_POSE:
            yield f"{character.name} is copied from the portrait"


def _unlike(seen):
    if told := obscured(seen):
        yield told


def _quality_faults(seen, asked):
    if told := blemish(seen):
        yield told
    if not seen.characters:
        yield "there is no figure in it"
    for character in seen.characters:
        if character.cut > HIDDEN:
            yield f"{character.name} is cut off at the edge"
        else:
            yield from (f"{character.name}'s {part} is missing" for part in character.missing_parts)
        if character.covered > HIDDEN:
            yield f"{character.name} is covered by somebody else"
