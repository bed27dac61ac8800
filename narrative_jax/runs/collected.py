"""What an entry takes in that collects people's own pictures: looked at, before anything is read or written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from narrative_jax.core.errors import InputError
from narrative_jax.core.options import File, parse
from narrative_jax.core.records import Scene
from narrative_jax.data.examples import find_examples
from narrative_jax.data.own_pairs import OwnPairs, find_pairs
from narrative_jax.data.photos import picture_size
from narrative_jax.data.published_pairs import find_published, is_published
from narrative_jax.data.sources import find_pictures, read_preferences, read_scenes
from narrative_jax.runs.directory import Context

COLLECT = "collect"  # the stage


@dataclass(frozen=True)
class CollectOptions:
    """`pictures` are found by `data.sources.find_pictures`, with `preferences` among them or without. `preferences`
    alone by `data.own_pairs.find_pairs`, or `data.published_pairs.find_published` where they are published ones;
    `examples`, alone too, by `data.examples.find_examples` with `quality`.

    Published preferences bring their pictures, so that `pictures` may be "" beside them.

    `damaged_policy` is "stop" or, to go on without damaged pictures, "drop".
    """

    pictures: File | None = None
    preferences: File | None = None
    examples: File | None = None
    quality: int | None = None
    damaged_policy: str = "stop"

    def find(self) -> OwnPairs:
        """All that there is. Raises InputError for what is missing, cannot be read, or does not go together."""
        files = {"pictures": self.pictures, "preferences": self.preferences, "examples": self.examples}
        given = [name for name, file in files.items() if file is not None]
        if "examples" in given and len(given) > 1:
            rule = f"they bring their pictures, and come without {given[0]}"
            raise InputError(f"examples {str(self.examples)!r}", rule, "collect these in another entry")
        if self.examples is not None:
            return _as_pairs(*find_examples(self.examples, self.quality, self.damaged_policy))
        if self.quality is not None:
            raise InputError(f"quality {self.quality!r}", "it sieves examples, and there are none", "leave it out")
        if not self.pictures:
            find = find_published if is_published(self.preferences) else find_pairs
            return find(self.preferences, self.damaged_policy)
        found = _as_pairs(*find_pictures(self.pictures, self.damaged_policy))
        if self.preferences is not None:
            found.preferences.extend(read_preferences(self.preferences, found.scenes))
        return found


def collect_entries(config: Mapping[str, Any]) -> list[str]:
    """The names of the entries that collect."""
    return [name for name, section in config.items() if getattr(section, "stage", "") == COLLECT]


def collected(context: Context, name: str) -> OwnPairs:
    """What an entry takes in. Raises InputError."""
    return parse(CollectOptions, context.config[name], name, ["stage"]).find()


def own_scenes(context: Context, source: str) -> list[Scene]:
    """People's own scenes: what an entry takes in, or without one those of the config's file. Raises InputError."""
    return collected(context, source).scenes if source else read_scenes(context.config.scenes)


def check_collected(context: Context, name: str, least: int) -> None:
    """Raise InputError for pictures of an entry, if it collects, that a generator cannot learn from, and for nothing
    but ties.

    A side below `least` pixels is too small: enlarged, it teaches blur.
    """
    if name not in collect_entries(context.config):
        return
    found = collected(context, name)
    if found.preferences and all(preference.tie for preference in found.preferences):
        remedy = "give some that prefer one picture"
        raise InputError(f"the preferences of {name}", "all of them are ties", remedy)
    for *_, picture in found.pictures:
        height, width = picture_size(picture)
        if min(height, width) < least:
            given, rule = f"{picture} of {height} × {width} pixels", f"the generator draws {least} × {least}"
            raise InputError(given, f"{rule}: enlarged, it would teach blur", "give it larger, or leave its pair out")


def _as_pairs(pictures, left_out):
    scenes = [scene for scene, _ in pictures]
    return OwnPairs(scenes, [(scene.id, scene.id, picture) for scene, picture in pictures], [], left_out)
