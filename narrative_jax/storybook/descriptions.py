"""What a picture shows, in words, as the oracle sees it, and how that is other than portraits and prompt have it."""

from collections.abc import Mapping
from itertools import product

from narrative_jax.storybook.critiques import DOING, HIDDEN, blemish, obscured
from narrative_jax.storybook.figure import PARTS
from narrative_jax.storybook.oracle import Figure, Findings, Seen
from narrative_jax.storybook.world import ATTRIBUTES, LOCATIONS, PORTRAIT_POSE, STYLES, WORLD, Character, Facts

_DOING = {**DOING, PORTRAIT_POSE: "standing"}
_BLURRED, _CUT, _COVERED = "blurred", "cut off at the edge", "covered by somebody else"
# Attributes of each thing, in the order of its words.
_WORN = {
    "skin": ("skin",),
    "hair": ("hair", "hair_colour"),
    "hat": ("hat_colour", "hat"),
    "coat": ("coat",),
    "trousers": ("trousers",),
}


def phrases() -> list[str]:
    """All that may be said of one figure that is not blurred, and how many figures there may be, as numbers."""
    values = [[dict(zip(of, each, strict=True)) for each in product(*map(ATTRIBUTES.get, of))] for of in _WORN.values()]
    things = [words for of_thing in values for has in of_thing for words in _worn(has).values()]
    numbers = [str(number) for number in range(1, WORLD.max_characters + 2)]  # with somebody too many
    return [*things, *_DOING.values(), *(f"{part} missing" for part in PARTS), _CUT, _COVERED, *numbers]


def pictured(seen: Findings) -> str:
    """What a picture shows, whatever was asked for: figures by numbers from left to right, place, style and looks.

    Behind each thing stands the number of who wears it: the same words, said of a portrait, lead back to it. What is
    not in sight of a figure is not told; what cannot be made out is called blurred, and is the same as nothing.
    """
    people = [f"{number}: {_figure(figure, number)}" for number, figure in enumerate(seen.figures, start=1)]
    looks = filter(None, (blemish(seen) or "it is clean", obscured(seen)))
    return f"In the picture: {'; '.join([*people, f'{_place(seen)}, {_style(seen)}', *looks])}."


def aloud(asked: Facts, seen: Findings) -> str:
    """What a picture shows, then what the portraits of its scene show, behind each thing who wears the same, and only
    behind that who is who.

    Nothing names anybody before the picture is told of; any critique's faults are in what is said here.
    """
    portraits = "; ".join(_portrait(each, seen.figures) for each in asked.characters)
    people = [_who(each, seen) for each in asked.characters]
    if seen.extra:
        people.append("somebody too many")
    where = _told(_place(seen), LOCATIONS[asked.location]), _told(_style(seen), STYLES[asked.style])
    return f"{pictured(seen)} {portraits}. {'; '.join([*people, ', '.join(where)])}."


def repeated(asked: Facts) -> str:
    """What somebody says aloud who looks at portraits and prompt alone: that the picture shows just that."""
    figures = tuple(Figure(each.name, each.attributes, each.action, (), 0.0, 0.0) for each in asked.characters)
    shown = (Seen(each.name, {}, {}, (), each.action, (), 0.0, 0.0, (1.0, 1.0, 1.0)) for each in asked.characters)
    return aloud(asked, Findings(tuple(shown), (), 0, asked.location, asked.style, 0.0, 1.0, figures))


def _figure(figure: Figure, number):
    told = [f"{thing} {number}" for thing in _worn(figure.has).values()]
    told = [*told, "in a blurred pose" if figure.action is None else _DOING[figure.action]]
    if figure.cut > HIDDEN:
        told.append(_CUT)
    else:
        told += [f"{part} missing" for part in figure.missing_parts]
    if figure.covered > HIDDEN:
        told.append(_COVERED)
    return ", ".join(told)


def _portrait(asked: Character, figures):
    """Somebody's portrait, and behind each thing the numbers of figures of whom the same words are said."""
    worn, told = [_worn(figure.has) for figure in figures], []
    for thing, words in _worn(asked.attributes).items():
        same = [str(number) for number, of_figure in enumerate(worn, start=1) if of_figure.get(thing) == words]
        told.append(f"{words} {' '.join(same) or 'nobody'}")
    return f"{asked.name}: {', '.join(told)}"


def _who(asked: Character, seen: Findings):
    """Which figure somebody is, and what that does."""
    character = next((each for each in seen.characters if each.name == asked.name), None)
    number = next((number for number, each in enumerate(seen.figures, start=1) if each.name == asked.name), None)
    if character is None or number is None:
        return f"{asked.name} is missing"
    doing = "in a blurred pose" if character.action is None else _DOING[character.action]
    return f"{asked.name} is {number}: {_told(doing, DOING[asked.action])}"


def _place(seen):
    return "in a blurred place" if seen.location is None else LOCATIONS[seen.location]


def _style(seen):
    return "in a blurred style" if seen.style is None else STYLES[seen.style]


def _told(seen, asked):
    return seen if seen == asked else f"{seen} not {asked}"


def _worn(has: Mapping[str, str | None]):
    """Words for each thing of which an attribute is known, or blurred (None)."""
    found = {}
    for thing, attributes in _WORN.items():
        words = [has[attribute] or _BLURRED for attribute in attributes if attribute in has]
        if words:
            named = has.get("hat") in ATTRIBUTES["hat"] and thing == "hat"  # a cap is a hat
            found[thing] = " ".join(words if named else [*words, thing])
    return found
