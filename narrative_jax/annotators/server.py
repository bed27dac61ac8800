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
from narrative_jax.core.records import Annotation, Candidate, Example, Scene
from narrative_jax.data.annotations import HIGHEST, LOWEST
from narrative_jax.rewards.base import ASPECTS

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

_CRITICISE = f"""Criticise the last picture, which should show the subjects of the references doing what is asked for.
For each aspect give one or two sentences that name its faults, or say that there are none, and a score from {LOWEST:g}
(bad) to {HIGHEST:g} (faultless), to a tenth.
prompt_following: who is there, what each does, place and style. identity_consistency: does everyone look as in the
reference, without another's attributes, and not copied from it in pose. visual_quality: clean, complete and well
composed.
Answer with a JSON object of these aspects, each an object of "critique" and "score"."""
_CRITIQUE = {
    "type": "object",
    "properties": {"critique": {"type": "string"}, "score": {"type": "number"}},
    "required": ["critique", "score"],
    "additionalProperties": False,
}
_CRITIQUES = {
    "type": "object",
    "properties": dict.fromkeys(ASPECTS, _CRITIQUE),
    "required": list(ASPECTS),
    "additionalProperties": False,
}


@dataclass(frozen=True)
class ServerAnnotator(ChatModel):
    """Asks `model`; at most `budget` questions in a run (0: as many as there are).

    Of several processes each asks its share of them.
    """

    name: ClassVar[str] = "server"
    needs_facts: ClassVar[bool] = False

    budget: int = 0
    _asked: count = field(default_factory=lambda: count(1), init=False, compare=False, repr=False)

    def __post_init__(self):
        super().__post_init__()
        check_count("budget", self.budget)

    def same_subject(self, examples: Sequence[Example]) -> list[Annotation]:
        """See `base.Annotator`."""
        with ThreadPoolExecutor(self.at_once) as threads:  # the first failure cancels what has not begun
            return list(threads.map(self._compare, examples))

    def annotate(self, pictures: Sequence[Candidate], scenes: Sequence[Scene]) -> list[Annotation]:
        """See `base.Annotator`; one question a picture."""
        with ThreadPoolExecutor(self.at_once) as threads:
            return [each for said in threads.map(self._criticise, pictures, scenes) for each in said]

    def _compare(self, example):
        content = [text(_QUESTION), *_references(example.scene)]
        content += [text("The last picture:"), picture(example.target)]
        rating, critique = self.answer(content, f"scene {example.scene.id!r}", "comparison", _ANSWER, _read)
        return Annotation(example.scene.id, SAME_SUBJECT, critique, rating, f"{self.name} {self.model}")

    def _criticise(self, candidate, scene):
        content = [text(_CRITICISE), *_references(scene), text(f"Asked for: {scene.prompt}"), text("The picture:")]
        content.append(picture(candidate.image))
        said = self.answer(content, f"candidate {candidate.id!r}", "critique", _CRITIQUES, _read_critiques)
        annotator = f"{self.name} {self.model}"
        return [Annotation(candidate.id, aspect, *said[aspect], annotator) for aspect in ASPECTS]

    def _permit(self):
        """Count a question. Raise InputError where this process has asked its share of the budget."""
        if self.budget and next(self._asked) > len(range(processes.index(), self.budget, processes.count())):
            given, rule = f"budget {self.budget}", "so many questions are asked in a run, and all are"
            raise InputError(given, rule, "run it again to go on, or raise it")


def _references(scene):
    """The subjects' images, each with its name."""
    for number, subject in enumerate(scene.subjects, start=1):
        words = ", ".join(dict.fromkeys((subject.name, subject.class_word)))
        yield text(f"Reference of subject {number} ({words}):")
        yield from map(picture, subject.images)


def _read(answer):
    """The rating, and the words as a critique."""
    known = isinstance(answer, dict) and answer.keys() == set(_ANSWER["required"])
    words = known and all(isinstance(answer[name], list) for name in ("attributes", "differences"))
    if not words or type(answer["rating"]) is not int or not 0 <= answer["rating"] <= SURE:
        raise UnfitError(f"it is a JSON object of attributes, differences and a rating, an integer from 0 to {SURE}")
    attributes, differences = (", ".join(map(str, answer[name])) for name in ("attributes", "differences"))
    return float(answer["rating"]), f"Looked for: {attributes}. Different: {differences or 'nothing'}."


def _read_critiques(answer):
    """Critique and score of each aspect."""
    known = isinstance(answer, dict) and answer.keys() == set(ASPECTS)
    if not known or not all(_is_critique(each) for each in answer.values()):
        raise UnfitError(f"it is a JSON object of {', '.join(ASPECTS)}, each with a critique and a score from 1 to 5")
    return {aspect: (each["critique"].strip(), float(each["score"])) for aspect, each in answer.items()}


def _is_critique(each):
    known = isinstance(each, dict) and each.keys() == set(_CRITIQUE["required"])
    words = known and isinstance(each["critique"], str) and each["critique"].strip()
    return words and type(each["score"]) in (int, float) and LOWEST <= each["score"] <= HIGHEST
