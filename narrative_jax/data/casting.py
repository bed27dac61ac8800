"""Who does what, where and in which style: drafts of scenes for people's own characters, and plain prompts of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from narrative_jax.core.errors import InputError, check_count
from narrative_jax.data.photos import check_picture, find_file
from narrative_jax.data.reading import field, identity, json_lines

_FIELDS = ("name", "class_word", "images", "description")


@dataclass(frozen=True)
class Character:
    """One of the cast; `images` are paths as they were given, from the cast's folder, `description` may be ""."""

    name: str
    class_word: str
    images: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Draft:
    """What a prompt shall say: each character with an action ("waves"), and place and style, "" where there is none."""

    id: str
    characters: tuple[Character, ...]
    actions: tuple[str, ...]
    place: str
    style: str

    @property
    def prompt(self) -> str:
        """In plain words: "Mara waves and Ivo reads in the forest, in pastel."."""
        acts = [f"{who.name} {does}" for who, does in zip(self.characters, self.actions, strict=True)]
        there = f" {self.place}" if self.place else ""
        return f"{' and '.join(acts)}{there}{f', {self.style}' if self.style else ''}."


def read_cast(path: str | Path) -> list[Character]:
    """The characters of a JSONL file: name, class_word, images (paths from its folder), and maybe description.

    Raises InputError with file and line for what is missing, misspelt or no picture, and for a name given twice.
    """
    path, cast = Path(path), {}
    for fields, where in json_lines(path, _FIELDS):
        name, word = identity(fields, "name", where), field(fields, "class_word", str, where)
        images = tuple(field(fields, "images", list, where))
        for image in images:
            if not isinstance(image, str):
                raise InputError(f"{where}: image {image!r}", "an image is a path", "give the path of a picture")
            check_picture(find_file(path.parent, image), f"{where}: image {image!r}")
        if name in cast:
            raise InputError(f"{where}: name {name!r}", "a character of that name is there already", "rename one")
        description = field(fields, "description", str, where) if "description" in fields else ""
        cast[name] = Character(name, word, images, description)
    if not cast:
        raise InputError(f"{path}", "it holds no character", "write one a line, as JSON")
    return list(cast.values())


def drafts(
    cast: Sequence[Character],
    count: int,
    most: int,
    actions: Sequence[str],
    places: Sequence[str],
    styles: Sequence[str],
    seed: int,
) -> list[Draft]:
    """So many drafts, each of one to `most` of the cast with an action each; the first ones stay with a larger `count`.

    Raises InputError for no action, and for counts that are none.
    """
    check_count("count", count, minimum=1)
    check_count("most", most, minimum=1)
    if not actions:
        raise InputError("actions none", "everybody does something", "give some, e.g. waves,reads")
    found = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        who = rng.choice(len(cast), rng.integers(1, min(most, len(cast)) + 1), replace=False)
        does = rng.choice(len(actions), len(who))
        place, style = (str(rng.choice(each)) if each else "" for each in (places, styles))
        characters = tuple(cast[each] for each in who)
        found.append(Draft(f"{number}", characters, tuple(actions[each] for each in does), place, style))
    return found
