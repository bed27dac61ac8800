"""Critiques that a score is read behind: another entry's, and controls that tell what scores come of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.data.datasets import Records
from narrative_jax.rewards.base import HostReward
from narrative_jax.runs.annotations import makes_annotations, read_critiques
from narrative_jax.runs.candidates import pictures_entry
from narrative_jax.runs.directory import Context
from narrative_jax.runs.rewards import describe_reward

UNSEEN, WITHOUT, SWAPPED, LENGTH = CONTROLS = ("unseen", "without_critiques", "swapped_critiques", "critique_length")
_GREY = 128


@dataclass(frozen=True)
class CritiqueOptions:
    """A reward that writes critiques scores those of the entry `critiques_from`, whose annotators or whose reward left
    some, in place of its own.

    `control`: "unseen" shows every reward grey in place of pictures, "without_critiques" has them scored without,
    "swapped_critiques" with those of the scene's next picture, and "critique_length" scores how short they are.
    """

    critiques_from: str = ""
    control: str = ""

    def check(self, context: Context, source: str, writes: bool) -> None:
        """Raise InputError for an unknown control, one that needs other critiques, and critiques of other pictures."""
        if self.control:
            check_name("control", self.control, CONTROLS)
        if (self.critiques_from or self.control == WITHOUT) and not writes:
            given = f"critiques_from {self.critiques_from!r}" if self.critiques_from else f"control {self.control!r}"
            raise InputError(given, "this reward reads no critiques", "leave it out, or choose one that writes them")
        if self.control in (SWAPPED, LENGTH) and not self.critiques_from:
            raise InputError(f"control {self.control!r}", "it is of given critiques", "name an entry in critiques_from")
        if self.control == WITHOUT and self.critiques_from:
            given = f"critiques_from {self.critiques_from!r}"
            raise InputError(given, "without critiques none is read", "leave one of them out")
        if self.critiques_from:
            check_critiques(context, self.critiques_from, source)

    def controlled(self, context: Context, reward: HostReward, candidates: Records) -> HostReward:
        """The reward as it scores these candidates. Raises InputError."""
        if self.control == WITHOUT:
            return replace(reward, reward=reward.reward.silent)
        critiques = self._read(context, reward.aspects, candidates)
        if self.control == LENGTH:
            return _Shortness(reward.name, reward.aspects, critiques)
        if critiques is not None:
            reward = replace(reward, critiques=critiques)
        return _Unseen(reward, reward.name, reward.aspects) if self.control == UNSEEN else reward

    def _read(self, context, aspects, candidates) -> Mapping[str, Sequence[str]] | None:
        """The critiques to be read of each candidate by aspect, None for the reward's own."""
        if not self.critiques_from:
            return None
        columns = candidates.columns("id", "scene_id")
        said = read_critiques(context, self.critiques_from)
        wanted = [(id, aspect) for id in columns["id"] for aspect in aspects]
        if missing := [key for key in wanted if key not in said]:
            given = f"critiques of {self.critiques_from!r}"
            rule = f"{missing[0][0]!r} has none on {missing[0][1]}, and would be scored without"
            raise InputError(given, rule, "score pictures that all have some")
        of = {id: [said[id, aspect] for aspect in aspects] for id in columns["id"]}
        return of_the_next(of, columns["scene_id"]) if self.control == SWAPPED else of


@dataclass(frozen=True)
class _Shortness:
    """How short the critiques of a picture are, in place of what a reward makes of them."""

    name: str
    aspects: Sequence[str]
    critiques: Mapping[str, Sequence[str]]

    def score_images(self, images, scenes, candidate_ids):
        return np.float32([[-len(words) for words in self.critiques[id]] for id in candidate_ids])


@dataclass(frozen=True)
class _Unseen:
    """A reward that is shown grey in place of every picture."""

    reward: HostReward
    name: str
    aspects: Sequence[str]

    def score_images(self, images, scenes, candidate_ids):
        return self.reward.score_images([np.full_like(image, _GREY) for image in images], scenes, candidate_ids)


def check_critiques(context: Context, name: str, source: str) -> None:
    """Raise InputError unless the entry leaves critiques, of the pictures of `source`."""
    if not _leaves_critiques(context, name):
        remedy = "name an entry that annotates, or scores with a reward that writes"
        raise InputError(f"critiques of {name!r}", "it leaves none", remedy)
    there, here = pictures_entry(context.config, name), pictures_entry(context.config, source)
    if there != here:
        raise InputError(f"critiques of {name!r}, of {there}", f"the pictures are of {here}", "name an entry of these")


def _leaves_critiques(context, name):
    """Whether its annotators do, or its reward, where that scores critiques of its own of what it is shown."""
    if makes_annotations(context, name):
        return True
    section = context.config.get(name, {})
    if getattr(section, "stage", "") != "score" or section.get("critiques_from", "") or section.get("control", ""):
        return False
    return getattr(describe_reward(context.of(name)), "writes", False)


def of_the_next(critiques: Mapping[str, Sequence[str]], scene_ids: Sequence[str]) -> dict[str, Sequence[str]]:
    """Each picture with the critiques of the next one of its scene, the last with those of the first.

    `scene_ids` are in the order of the critiques' pictures. Raises InputError for a scene with one picture.
    """
    of_scene: dict[str, list[str]] = {}
    for id, scene_id in zip(critiques, scene_ids, strict=True):
        of_scene.setdefault(scene_id, []).append(id)
    swapped = {}
    for scene_id, ids in of_scene.items():
        if len(ids) == 1:
            rule = "its only picture has nobody to swap critiques with"
            raise InputError(f"scene {scene_id!r}", rule, "leave the control out, or give two pictures of each")
        swapped |= {id: critiques[other] for id, other in zip(ids, [*ids[1:], ids[0]], strict=True)}
    return {id: swapped[id] for id in critiques}
