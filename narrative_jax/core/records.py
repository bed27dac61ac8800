"""The records that travel between stages; images in them are uint8 NHWC."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Subject:
    """One character or object to keep: `images` u8[n, h, w, 3], `masks` bool[n, h, w] (True: the subject).

    `landmarks` f32[n, 5, 2] are those of its face in each image, as `Scene.faces`. Images and masks may be those of
    `data.subject_photos`, which are read from their files when NumPy or an index asks for pixels.
    """

    name: str
    class_word: str
    images: np.ndarray
    masks: np.ndarray | None = None
    landmarks: np.ndarray | None = None


@dataclass(frozen=True)
class Scene:
    """What is asked for; `facts` is what Storybook knows about its own scene, None for a user's.

    `faces` f32[n, 5, 2], of a scene with a finished picture, says where its n faces are: eyes, nose and corners of the
    mouth, as (x, y) in shares of the picture's width and height; None where nobody has looked.
    """

    id: str
    prompt: str
    subjects: Sequence[Subject]
    split: str
    facts: Any = None
    faces: np.ndarray | None = None


@dataclass(frozen=True)
class Example:
    """A scene and a picture `target` u8[h, w, 3] of it, for supervised training."""

    scene: Scene
    target: np.ndarray


@dataclass(frozen=True)
class Candidate:
    """A picture u8[h, w, 3] that `generator` drew for a scene, from noise of its own `seed`."""

    id: str
    scene_id: str
    image: np.ndarray
    seed: int
    generator: str


@dataclass(frozen=True)
class Score:
    """What a reward says of one candidate, a number for each aspect."""

    candidate_id: str
    reward: str
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Annotation:
    """An annotator's judgement of one candidate on one aspect; `score` is on the papers' scale of 1 to 5, from 0 where
    the aspect is whether two pictures show the same.
    """

    candidate_id: str
    aspect: str
    critique: str
    score: float | None
    annotator: str
    status: str = "done"


@dataclass(frozen=True)
class Preference:
    """Of two candidates the preferred one, on one aspect or "overall"; `gap` is the difference of scores."""

    chosen_id: str
    rejected_id: str
    aspect: str
    tie: bool
    gap: float | None = None
