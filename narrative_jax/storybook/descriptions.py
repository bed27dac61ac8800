"""What portraits and a picture show, in words, as the oracle sees it."""

from collections.abc import Mapping

from narrative_jax.storybook.critiques import DOING, HIDDEN, THINGS, blemish, obscured
from narrative_jax.storybook.oracle import Findings, Seen
from narrative_jax.storybook.world import LOCATIONS, PORTRAIT_POSE, STYLES, Character, Facts

_DOING = {**DOING, PORTRAIT_POSE: "standing"}


def aloud(asked: Facts, seen: Findings) -> str:
    """What the portraits of a scene show, and then the picture, by names; any critique's faults can be told from it.

    What is not as in the portrait, or as asked for, is told as that where it is told of: nothing that comes later
    compares. What cannot be made out is called blurred; what is hidden is told as it is in the portrait.
    """
    portraits = "; ".join(f"{each.name}: {', '.join(_things(each.attributes).values())}" for each in asked.characters)
    there = {each.name: each for each in seen.characters}
    people = [_person(each, there.get(each.name)) for each in asked.characters]
    if seen.extra:
        people.append("somebody too many")
    where = _told(
        "in a blurred place" if seen.location is None else LOCATIONS[seen.location], LOCATIONS[asked.location]
    )
    style = _told("in a blurred style" if seen.style is None else STYLES[seen.style], STYLES[asked.style])
    looks = filter(None, (blemish(seen) or "it is clean", obscured(seen)))
    return f"{portraits}. In the picture: {'; '.join([*people, f'{where}, {style}', *looks])}."


def repeated(asked: Facts) -> str:
    """What somebody says aloud who looks at portraits and prompt alone: that the picture shows just that."""
    shown = (Seen(each.name, {}, {}, (), each.action, (), 0.0, 0.0, (1.0, 1.0, 1.0)) for each in asked.characters)
    return aloud(asked, Findings(tuple(shown), (), 0, asked.location, asked.style, 0.0, 1.0))


def _person(asked: Character, seen: Seen | None):
    if seen is None:
        return f"{asked.name} is missing"
    blurred = {THINGS[attribute] for attribute in seen.unreadable}
    portrait, shown = _things(asked.attributes), _things({**asked.attributes, **seen.wrong})
    worn = [f"{'blurred ' * (thing in blurred)}{_told(words, portrait[thing])}" for thing, words in shown.items()]
    doing = _told("in a blurred pose" if seen.action is None else _DOING[seen.action], DOING[asked.action])
    told = [f"{asked.name}: {', '.join(worn)}", doing]
    if seen.cut > HIDDEN:
        told.append("cut off at the edge")
    else:
        told += [f"{part} missing" for part in seen.missing_parts]
    if seen.covered > HIDDEN:
        told.append("covered by somebody else")
    return ", ".join(told)


def _told(seen, asked):
    return seen if seen == asked else f"{seen} not {asked}"


def _things(has: Mapping[str, str]):
    return {
        "skin": f"{has['skin']} skin",
        "hair": f"{has['hair']} {has['hair_colour']} hair",
        "hat": f"{has['hat_colour']} {has['hat']}",
        "coat": f"{has['coat']} coat",
        "trousers": f"{has['trousers']} trousers",
    }
