"""What NIReward is shown and asked, and critiques, as tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.images import fit_image
from narrative_jax.core.records import Scene
from narrative_jax.models.chat_tokenizer import PICTURE, ChatTokenizer, next_question, question
from narrative_jax.models.critic import Texts
from narrative_jax.models.vlm import VlmInputs
from narrative_jax.models.vlm_inputs import Interleaved, Picture, collate, read_picture
from narrative_jax.models.vlm_vision import VisionTowerConfig
from narrative_jax.rewards.subjects import check_subjects

_MARK = "\0"  # where a question's text stands in what is said around it
INSTRUCTIONS = {
    "prompt_following": "Prompt following: is everyone there, doing what is asked, in the right place and style?",
    "identity_consistency": "Identity consistency: does everyone look as in the portrait?",
    "visual_quality": "Visual quality: is the picture clean, complete and well composed?",
}
# What a network learns to see by, and says aloud before it criticises: of what it has not put into words it cannot tell
# how it differs.
DESCRIBE = "Describe the picture, and then everyone's portrait."


@dataclass(frozen=True)
class Room:
    """How much is read and written: squares of `side` pixels for pictures, tokens for all that is shown, subjects,
    tokens of a critique, 0 where none is written, and of what is said `aloud` before it, 0 where nothing is.
    """

    side: int
    tokens: int
    max_subjects: int
    critique: int
    aloud: int = 0


def check_instructions(instructions: Mapping[str, str]) -> None:
    """Raise InputError for an aspect that nobody annotates, for none, and for a question without words."""
    if not isinstance(instructions, Mapping) or not instructions:
        remedy = f"give some of {', '.join(INSTRUCTIONS)}"
        raise InputError(f"instructions {instructions!r}", "each asks about an aspect", remedy)
    for aspect, asked in instructions.items():
        check_name("aspect of instructions", aspect, INSTRUCTIONS)
        if not isinstance(asked, str) or not asked.strip():
            given, example = f"instructions {asked!r} on {aspect}", INSTRUCTIONS[aspect]
            raise InputError(given, "a question has words", f"give some, e.g. {example!r}")


class Shown(NamedTuple):
    """Subjects, prompt and room for a picture as the network reads them, and its place i32[b] among their pictures."""

    inputs: VlmInputs
    place: np.ndarray


@dataclass(frozen=True)
class Prompts:
    """By a tokeniser, for a vision tower, in some room; `instructions` say by aspect what is asked."""

    tokenizer: ChatTokenizer
    tower: VisionTowerConfig
    room: Room
    instructions: Mapping[str, str] = field(default_factory=lambda: INSTRUCTIONS)

    def shown(self, scenes: Sequence[Scene]) -> Shown:
        """What scenes show. Raises InputError for one without subjects or with too many, and for too many tokens."""
        check_subjects(scenes, self.room.max_subjects, self.tower.side)
        asked = [self._interleaved(scene) for scene in scenes]
        for scene, each in zip(scenes, asked, strict=True):
            if (taken := self._taken(each)) > self.room.tokens:
                rule = f"there is room for {self.room.tokens}"
                raise InputError(f"scene {scene.id!r} of {taken} tokens", rule, "shorten its prompt")
        return self._collated(asked, self.room.tokens, self.room.max_subjects + 1)

    def alone(self, count: int) -> Shown:
        """Room for so many pictures, of which nothing else is known."""
        asked = Interleaved(self.tokenizer.encode(f"{self._around[0]}{PICTURE}\n"), [self._blank])
        return self._collated([asked] * count, self._taken(asked), 1)

    @property
    def silent(self) -> "Prompts":
        """The same questions, with no room for words: they are judged at once."""
        return replace(self, room=replace(self.room, critique=0, aloud=0))

    @cached_property
    def questions(self) -> Texts:
        """The aspects' [k, n], where nothing was asked before."""
        return self._asked([each + self._around[1] for each in self.instructions.values()])

    @cached_property
    def next_questions(self) -> Texts:
        """The aspects' [k, n], after what was said aloud."""
        return self._asked(map(next_question, self.instructions.values()))

    @cached_property
    def opening(self) -> Texts:
        """`DESCRIBE`, [1, n]."""
        return self._asked([DESCRIBE + self._around[1]])

    def _asked(self, questions):
        tokens = list(map(self.tokenizer.encode, questions))
        return Texts(*(part[0] for part in _padded([tokens], max(map(len, tokens)), self.tokenizer.pad)))

    def texts(self, critiques: Sequence[Sequence[str]]) -> Texts:
        """Critiques of all aspects of each picture, or other answers, as tokens [b, k, m].

        An empty one is none; one that is longer than there is room for is cut off, as the network's own are.
        """
        return self._answers(critiques, self.room.critique)

    def aloud(self, described: Sequence[str]) -> Texts:
        """What is said aloud of each picture, as tokens [b, 1, m], cut off where it is longer than there is room for.

        Raises InputError where nothing is said aloud.
        """
        if not self.room.aloud:
            given, rule = f"a room of {self.room}", "nothing is said aloud in it"
            raise InputError(given, rule, "take another size of NIReward, e.g. 'storybook'")
        return self._answers([[each] for each in described], self.room.aloud)

    def pictured(self, described: Sequence[str]) -> Texts:
        """The beginning of that, of the picture, as tokens [b, 1, m], cut off at half of the room: it has no end, since
        more comes after it. Raises InputError.
        """
        tokens, mask = self.aloud(described)
        mask &= tokens != self.tokenizer.end
        return Texts(*(part[..., : self.room.aloud // 2] for part in (tokens, mask)))

    def _answers(self, texts, room):
        tokens = [[self._closed(each, room) for each in of_picture] for of_picture in texts]
        return _padded(tokens, room, self.tokenizer.pad)

    def words(self, critiques: Texts) -> list[list[str]]:
        """Critiques [b, k, m] as texts."""
        tokens, mask = map(np.asarray, critiques)
        return [
            [self.tokenizer.decode(row[there]) for row, there in zip(*of_picture, strict=True)]
            for of_picture in zip(tokens, mask, strict=True)
        ]

    def _closed(self, answer, room):
        """Its tokens, the end's too; none of an empty one."""
        tokens = [*self.tokenizer.encode(answer), self.tokenizer.end] if answer else []
        return tokens[:room]

    def _interleaved(self, scene):
        """Subjects with their names, what is asked for, and a place for the picture."""
        said, pictures, side = [], [], self.room.side
        for subject in scene.subjects:
            said.append(f"{subject.name} ({subject.class_word}): {PICTURE}\n")
            pictures.append(read_picture(fit_image(subject.images[0], side), self.tower, 1, side**2))
        said.append(f"Asked for: {scene.prompt}\n{PICTURE}\n")
        pictures.append(self._blank)
        return Interleaved(self.tokenizer.encode(self._around[0] + "".join(said)), pictures)

    @property
    def _blank(self):
        """A picture that is not known yet."""
        across = self.room.side // self.tower.patch_size
        return Picture(np.zeros((self._patches, 3 * self.tower.patch_size**2), np.float32), across, across)

    def _taken(self, asked):
        """Tokens of words and pictures."""
        return len(asked.tokens) + len(asked.pictures) * (self._patches // self.tower.merge**2 - 1)

    def _collated(self, asked, length, pictures):
        """Prompts of up to `length` tokens and so many pictures, each picture's patches apart."""
        inputs = collate(asked, length, pictures * self._patches, self.tokenizer.picture, self.tower)
        apart = {
            name: part.reshape(len(asked), pictures, self._patches, *part.shape[2:])
            for name, part in (("patches", inputs.patches), ("cells", inputs.cells))
        }
        return Shown(inputs._replace(**apart), np.array([len(each.pictures) - 1 for each in asked], np.int32))

    @property
    def _patches(self):
        """Of a picture."""
        return (self.room.side // self.tower.patch_size) ** 2

    @cached_property
    def _around(self):
        """What is said before the first question, and after it."""
        before, after = question(_MARK).split(_MARK)
        return before, after


def _padded(texts, length, pad):
    """Tokens of texts [b][k][n] as arrays [b, k, length]."""
    tokens = np.full((len(texts), len(texts[0]), length), pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, of_picture in enumerate(texts):
        for place, text in enumerate(of_picture):
            tokens[row, place, : len(text)], mask[row, place, : len(text)] = text, True
    return Texts(tokens, mask)
