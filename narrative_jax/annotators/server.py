"""A vision-language model behind a server as an annotator; see `core.chat`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar

from narrative_jax.annotators.base import SAME_SUBJECT, SURE
from narrative_jax.core import processes
from narrative_jax.core.chat import ChatModel, UnfitError, picture, text
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.records import Annotation, Example

_QUESTION = f"""Does the last picture show the very subjects of the reference pictures before it?
Name each subject's key attributes as its reference shows them (colours, shapes, patterns, parts), then look for each in
the last picture. What a subject does, where it is and how it is lit are no differences; another object of its kind is.
Answer with a JSON object: "attributes", the attributes named; "differences", those that the last picture shows
otherwise or not at all; "rating", an integer from 0 (certainly not the same) to {SURE} (certainly the same)."""
_WORDS = {"type": "array", "items": {"type": "string"}}
_ANSWER = {
    "type": "object",
    "properties": {"attributes": _WORDS, "differences": _WORDS, "rating": {"type": "integer", "enum": list(range(6))}},
    "required": ["attributes", "differences", "rating"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class ServerAnnotator(ChatModel):
    """Asks `model`; at most `budget` questions in a run (0: as many as there are): what was answered is kept.

    Of several processes each asks its share of them.
    """

    name: ClassVar[str] = "server"
    needs_facts: ClassVar[bool] = False

    budget: int = 0
    _asked: count = field(default_factory=lambda: count(1), compare=False, repr=False)

    def __post_init__(self):
        super().__post_init__()
        check_count("budget", self.budget)

    def same_subject(self, examples: Sequence[Example]) -> list[Annotation]:
        """See `base.Annotator`."""
        with ThreadPoolExecutor(self.at_once) as threads:  # the first failure cancels what has not begun
            return list(threads.map(self._compare, examples))

    def _compare(self, example):
        if self.budget and next(self._asked) > len(range(processes.index(), self.budget, processes.count())):
            given, rule = f"budget {self.budget}", "so many questions are asked in a run, and all are"
            raise InputError(given, rule, "run it again to go on, or raise it")
        content = [text(_QUESTION)]
        for number, subject in enumerate(example.scene.subjects, start=1):
            words = ", ".join(dict.fromkeys((subject.name, subject.class_word)))
            content += [text(f"Reference of subject {number} ({words}):"), *map(picture, subject.images)]
        content += [text("The last picture:"), picture(example.target)]
        rating, critique = self.answer(content, f"scene {example.scene.id!r}", "comparison", _ANSWER, _read)
        return Annotation(example.scene.id, SAME_SUBJECT, critique, rating, f"{self.name} {self.model}")


def _read(answer):
    """The rating, and the words as a critique."""
    known = isinstance(answer, dict) and answer.keys() == set(_ANSWER["required"])
    words = known and all(isinstance(answer[name], list) for name in ("attributes", "differences"))
    if not words or type(answer["rating"]) is not int or not 0 <= answer["rating"] <= SURE:
        raise UnfitError(f"it is a JSON object of attributes, differences and a rating, an integer from 0 to {SURE}")
    attributes, differences = (", ".join(map(str, answer[name])) for name in ("attributes", "differences"))
    return float(answer["rating"]), f"Looked for: {attributes}. Different: {differences or 'nothing'}."
