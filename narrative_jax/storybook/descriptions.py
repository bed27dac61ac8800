"""What a picture shows, in words, as the oracle sees it, and how that is other than portraits and prompt have it."""

from collections.abc import Mapping

from narrative_jax.storybook.critiques import DOING, HIDDEN, THINGS, blemish, obscured
from narrative_jax.storybook.oracle import Figure, Findings, Seen
from narrative_jax.storybook.world import ATTRIBUTES, LOCATIONS, PORTRAIT_POSE, STYLES, Character, Facts

_DOING = {**DOING, PORTRAIT_POSE: "standing"}
_BLURRED = "blurred"
# Attributes of each thing, in the order of its words.
_WORN = {
    "skin": ("skin",),
    "hair": ("hair", "hair_colour"),
    "hat": ("hat_colour", "hat"),
    "coat": ("coat",),
    "trousers": ("trousers",),
}


def pictured(seen: Findings) -> str:
    """What a picture shows, whatever was asked for: figures by numbers from left to right, place, style and looks.

    What is not in sight of a figure is not told; what cannot be made out is called blurred.
    """
    people = [f"{number}: {_figure(figure)}" for number, figure in enumerate(seen.figures, start=1)]
    looks = filter(None, (blemish(seen) or "it is clean", obscured(seen)))
    return f"In the picture: {'; '.join([*people, f'{_place(seen)}, {_style(seen)}', *looks])}."


def aloud(asked: Facts, seen: Findings) -> str:
    """What a picture shows, then what the portraits of its scene show, and then what of each figure is right for whom,
    and only behind that who is who.

    Nothing names anybody before the picture is told of; any critique's faults are in what is said here.
    """
    portraits = "; ".join(f"{each.name}: {', '.join(_worn(each.attributes).values())}" for each in asked.characters)
    there = {each.name: each for each in seen.characters}
    people = [_compared(each, there.get(each.name), seen.figures) for each in asked.characters]
    if seen.extra:
        people.append("somebody too many")
    where = _told(_place(seen), LOCATIONS[asked.location]), _told(_style(seen), STYLES[asked.style])
    return f"{pictured(seen)} {portraits}. {'; '.join([*people, ', '.join(where)])}."


def repeated(asked: Facts) -> str:
    """What somebody says aloud who looks at portraits and prompt alone: that the picture shows just that."""
    figures = tuple(Figure(each.name, each.attributes, each.action, (), 0.0, 0.0) for each in asked.characters)
    shown = (Seen(each.name, {}, {}, (), each.action, (), 0.0, 0.0, (1.0, 1.0, 1.0)) for each in asked.characters)
    return aloud(asked, Findings(tuple(shown), (), 0, asked.location, asked.style, 0.0, 1.0, figures))


def _figure(figure: Figure):
    told = [*_worn(figure.has).values(), "in a blurred pose" if figure.action is None else _DOING[figure.action]]
    if figure.cut > HIDDEN:
        told.append("cut off at the edge")
    else:
        told += [f"{part} missing" for part in figure.missing_parts]
    if figure.covered > HIDDEN:
        told.append("covered by somebody else")
    return ", ".join(told)


def _compared(asked: Character, seen: Seen | None, figures):
    """Somebody beside each figure, thing by thing, and only then which of them it is."""
    told, found = [], f"{asked.name} is missing"
    for number, figure in enumerate(figures, start=1):
        wrong = {THINGS[each] for each, seen in figure.has.items() if seen not in (None, asked.attributes[each])}
        blurred = {THINGS[each] for each, seen in figure.has.items() if seen is None}
        things = [
            f"{'wrong' if thing in wrong else _BLURRED if thing in blurred else 'right'} {thing}"
            for thing in _worn(figure.has)
        ]
        told.append(f"{number} as {asked.name}: {', '.join(things)}")
        if seen is not None and figure.name == asked.name:
            doing = _told("in a blurred pose" if seen.action is None else _DOING[seen.action], DOING[asked.action])
            found = f"{asked.name} is {number}: {doing}"
    return "; ".join([*told, found])


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
