"""A vision-language model behind a server as the judge; see `core.chat`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from narrative_jax.core.chat import ChatModel, UnfitError, picture, text
from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Pictures
from narrative_jax.rewards.base import ASPECTS

_MOST = 10  # the best rating; the worst is 0
_QUESTION = f"""An image generator drew the last picture below, for a prompt and subjects shown in reference pictures.
Rate it on three aspects, each by an integer from 0 (it fails) to {_MOST} (nothing could be better):
- prompt_following: who and how many are there, what they do, where, and in which style, as the prompt says.
- identity_consistency: each subject looks as in its reference pictures, without features of another subject;
  pasting a reference picture in is a failure.
- visual_quality: clean, with whole bodies and a good composition, whatever the prompt and the subjects are.
Answer with a JSON object of these three integers alone."""
_RATING = {
    "type": "object",
    # Listed, since several servers refuse "minimum" and "maximum" in a schema.
    "properties": {aspect: {"type": "integer", "enum": list(range(_MOST + 1))} for aspect in ASPECTS},
    "required": list(ASPECTS),
    "additionalProperties": False,
}


@dataclass(frozen=True)
class HttpJudge(ChatModel):
    """Scores in [0, 1] by a vision-language model."""

    name: ClassVar[str] = "http_judge"
    aspects: ClassVar[tuple[str, ...]] = ASPECTS
    differentiable: ClassVar[bool] = False
    needs_facts: ClassVar[bool] = False

    def score_images(self, images: Pictures, scenes: Sequence[Scene], candidate_ids: Sequence[str]) -> np.ndarray:
        """Scores f32[b, 3]; see `HostReward`.

        Raises InputError for a scene without subjects, and where the server cannot be reached, refuses, or does not
        answer as asked.
        """
        for scene in scenes:
            if not scene.subjects:
                rule = "identity is rated against subjects' pictures"
                raise InputError(f"scene {scene.id!r} without subjects", rule, "give subjects")
        with ThreadPoolExecutor(self.at_once) as threads:  # the first failure cancels what has not begun
            ratings = list(threads.map(self._rate, images, scenes, candidate_ids))
        return np.float32(ratings) / _MOST

    def _rate(self, image, scene, candidate_id):
        """The rating of one picture, a number for each aspect."""
        content = [text(_QUESTION), text(f"The prompt: {scene.prompt}")]
        for number, subject in enumerate(scene.subjects, start=1):
            words = ", ".join(dict.fromkeys((subject.name, subject.class_word)))  # the one stands in for the other
            content += [text(f"Subject {number} ({words}):"), *map(picture, subject.images)]
        content += [text("The picture to rate:"), picture(image)]
        return self.answer(content, f"candidate {candidate_id!r}", "rating", _RATING, _marks)


def _marks(rating):
    """The numbers in an answer, in the order of the aspects."""
    if not isinstance(rating, dict) or set(rating) != set(ASPECTS) or not all(map(_is_mark, rating.values())):
        raise UnfitError(f"it is a JSON object of {', '.join(ASPECTS)}, each an integer from 0 to {_MOST}")
    return [rating[aspect] for aspect in ASPECTS]


def _is_mark(value):
    return type(value) is int and 0 <= value <= _MOST  # a bool is an int too
