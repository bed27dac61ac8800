"""What the world holds: identities, actions, locations, styles, captions and the splits of its scenes.

A scene is a pure function of (split, seed, index), so any part of a set can be drawn again alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from narrative_jax.core.errors import InputError, check_count, check_name

# Each identity attribute and its values, RGB in [0, 1] where the value is a colour.
PALETTES = {
    "skin": {
        "pale": (1.00, 0.86, 0.74),
        "golden": (0.87, 0.64, 0.40),
        "brown": (0.58, 0.36, 0.21),
        "dark": (0.28, 0.16, 0.11),
    },
    "hair_colour": {
        "black": (0.10, 0.09, 0.12),
        "ginger": (0.86, 0.38, 0.06),
        "blond": (0.97, 0.84, 0.36),
        "silver": (0.82, 0.85, 0.90),
    },
    "hat_colour": {
        "red": (0.84, 0.12, 0.16),
        "green": (0.10, 0.56, 0.28),
        "blue": (0.14, 0.28, 0.80),
        "yellow": (0.98, 0.82, 0.10),
        "violet": (0.52, 0.16, 0.62),
    },
    "coat": {
        "red": (0.84, 0.12, 0.16),
        "green": (0.10, 0.56, 0.28),
        "blue": (0.14, 0.28, 0.80),
        "orange": (0.96, 0.55, 0.10),
        "white": (0.97, 0.97, 0.95),
    },
    "trousers": {
        "navy": (0.09, 0.11, 0.34),
        "cream": (0.96, 0.90, 0.74),
        "brown": (0.48, 0.28, 0.13),
        "teal": (0.05, 0.58, 0.60),
    },
}
ATTRIBUTES = {
    "skin": tuple(PALETTES["skin"]),
    "hair": ("short", "long", "curly", "braided"),
    "hair_colour": tuple(PALETTES["hair_colour"]),
    "hat": ("cap", "top hat", "pointed hat", "bobble hat"),
    "hat_colour": tuple(PALETTES["hat_colour"]),
    "coat": tuple(PALETTES["coat"]),
    "trousers": tuple(PALETTES["trousers"]),
}
ATTRIBUTE_NAMES = tuple(ATTRIBUTES)
NUM_VALUES = tuple(len(values) for values in ATTRIBUTES.values())
NUM_IDENTITIES = int(np.prod(NUM_VALUES))

ACTIONS = ("waves", "cheers", "sits", "jumps", "walks", "reads")
PORTRAIT_POSE = "stands"  # how people stand for a portrait; never an action, so that a copied pose shows
POSES = (*ACTIONS, PORTRAIT_POSE)
LOCATIONS = {
    "beach": "on the beach",
    "forest": "in the forest",
    "castle": "by the castle",
    "town": "in the town",
    "mountains": "in the mountains",
    "library": "in the library",
}
STYLES = {"gouache": "in gouache", "pastel": "in pastel", "moonlight": "by moonlight", "crayon": "in crayon"}
NAMES = ("Mara", "Ivo", "Noa", "Sem", "Lio", "Ada", "Kim", "Uma")

SPLITS = ("train", "tune", "test")
_SPLIT_SHARES = (0.8, 0.1, 0.1)
_HELD_OUT = (1, 3, 4)  # with these weights, every tenth combination of action, place and style; see `is_unseen`


@dataclass(frozen=True)
class Character:
    """A name, the value of each identity attribute, and what the character is asked to do."""

    name: str
    attributes: Mapping[str, str]
    action: str


@dataclass(frozen=True)
class Facts:
    """What a scene asks for, in the words of the world."""

    characters: Sequence[Character]
    location: str
    style: str


@dataclass(frozen=True)
class World:
    """The rules of one world: how many characters a scene may have."""

    max_characters: int = 2

    def __post_init__(self):
        check_count("max_characters", self.max_characters, minimum=1)
        if self.max_characters > len(NAMES):
            raise InputError(f"max_characters {self.max_characters}", f"there are {len(NAMES)} names", "ask for fewer")

    def facts(self, split: str, seed: int, index: int) -> Facts:
        """The facts of one scene; identities are drawn from the split's own. Raises InputError.

        Every second scene of `tune` and `test` is unseen: see `is_unseen`.
        """
        rng = scene_rng(split, seed, index, "facts")
        count = int(rng.integers(1, self.max_characters + 1))
        identities = rng.choice(split_identities(split), count, replace=False)
        names = rng.permutation(NAMES)[:count]
        unseen = split != "train" and index % 2 == 1
        while True:
            actions = rng.integers(len(ACTIONS), size=count)
            characters = tuple(
                Character(str(name), identity_attributes(identity), ACTIONS[action])
                for name, identity, action in zip(names, identities, actions, strict=True)
            )
            facts = Facts(characters, str(rng.choice(list(LOCATIONS))), str(rng.choice(list(STYLES))))
            if is_unseen(facts) == unseen:
                return facts

    def check(self, facts: Facts) -> None:
        """Raise InputError where `facts` are not of this world: too many or no characters, unknown words."""
        if not isinstance(facts, Facts):
            raise InputError(f"a {type(facts).__name__}", "what a scene asks for is given as Facts", "pass scene.facts")
        count = len(facts.characters)
        if not 1 <= count <= self.max_characters:
            raise InputError(
                f"a scene with {count} characters",
                f"this world allows 1 to {self.max_characters}",
                "change the scene, or set World(max_characters=...)",
            )
        check_name("location", facts.location, LOCATIONS)
        check_name("style", facts.style, STYLES)
        for character in facts.characters:
            check_name("action", character.action, ACTIONS)
            for attribute in character.attributes:
                check_name("attribute", attribute, ATTRIBUTES)
            for attribute, values in ATTRIBUTES.items():
                if attribute not in character.attributes:
                    raise InputError(
                        f"{character.name} without attribute {attribute!r}",
                        f"a character has {', '.join(ATTRIBUTES)}",
                        f"give one of {', '.join(values)}",
                    )
                check_name(f"{attribute} of {character.name}", character.attributes[attribute], values)


WORLD = World()


def is_unseen(facts: Facts) -> bool:
    """Whether some character does, there and in that style, what no character of a train scene does.

    A tenth of the combinations is held out, spread evenly: no two share more than one of action, place and style.
    """
    place, style = list(LOCATIONS).index(facts.location), list(STYLES).index(facts.style)
    return any(is_held_out(POSES.index(character.action), place, style) for character in facts.characters)


def is_held_out(pose: int, location: int, style: int) -> bool:
    """Whether these numbers together are one of the combinations that no picture of a training set shows."""
    return pose < len(ACTIONS) and np.dot((pose, location, style), _HELD_OUT) % 10 == 0


def caption(facts: Facts, place_first: bool = False) -> str:
    """The scene in one sentence; it names nobody's attributes."""
    deeds = [f"{c.name} {c.action}" for c in facts.characters]
    where, how = LOCATIONS[facts.location], STYLES[facts.style]
    joint = " while " if place_first else " and "
    who = joint.join(filter(None, (", ".join(deeds[:-1]), deeds[-1])))
    if place_first:
        return f"{where[0].upper()}{where[1:]}, {who}, {how}."
    return f"{who} {where}, {how}."


def scene_rng(split: str, seed: int, index: int, purpose: str) -> np.random.Generator:
    """The random stream of one scene for one purpose. Raises InputError for a seed that is no integer ≥ 0."""
    check_name("split", split, SPLITS)
    check_count("seed", seed)
    check_count("index", index)
    return np.random.default_rng([SPLITS.index(split), seed, index, *purpose.encode()])


@cache
def split_identities(split: str) -> np.ndarray:
    """Numbers of the identities that belong to a split; those of two splits are disjoint."""
    check_name("split", split, SPLITS)
    order = np.random.default_rng(0).permutation(NUM_IDENTITIES)
    bounds = np.round(np.cumsum((0, *_SPLIT_SHARES)) * NUM_IDENTITIES).astype(int)
    which = SPLITS.index(split)
    return order[bounds[which] : bounds[which + 1]]


def identity_attributes(identity: int) -> dict[str, str]:
    """The attributes of an identity by its number."""
    codes = np.unravel_index(identity, NUM_VALUES)
    return {name: values[code] for (name, values), code in zip(ATTRIBUTES.items(), codes, strict=True)}


def identity_codes(attributes: Mapping[str, str]) -> np.ndarray:
    """Index of each attribute's value, i[7], in the order of ATTRIBUTES."""
    return np.array([values.index(attributes[name]) for name, values in ATTRIBUTES.items()])
