"""NI-RLHF as one TFDS data set: pairs of pictures of a scene, critiques and scores of each, and which is preferred.

`tfds.builder_from_directory(folder).as_data_source("train")` reads it, without this library.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Annotation, Candidate, Scene
from narrative_jax.data.datasets import write_dataset
from narrative_jax.data.kinds import png_of

NAME = "ni_rlhf"
SIDES = ("first", "second")
_ABOUT = (
    "Pairs of pictures (PNG) of one prompt and its subjects, of each the first one. Of each aspect a critique and a "
    "score from 1 to 5 (NaN where there is none) of both pictures, and preferred: 1 the first, -1 the second, 0 a tie, "
    "NaN where nobody said. Which picture is the first tells nothing. No two splits share a scene or a picture of a "
    "subject."
)
_TEXT, _NUMBER = tfds.features.Text(), tfds.features.Scalar(np.float32)


def write_ni_rlhf(folder: Path, aspects: Iterable[str], splits: Mapping[str, Iterable[dict]]) -> dict[str, int]:
    """Write splits of `pair`s; returns how many each has. Raises InputError where the disk refuses."""
    criticised = {f"{kind}_{side}": of for kind, of in (("critique", _TEXT), ("score", _NUMBER)) for side in SIDES}
    features = {
        "id": _TEXT,
        "prompt": _TEXT,
        "subjects": tfds.features.Sequence({"name": _TEXT, "class_word": _TEXT, "image": _TEXT}),
        **dict.fromkeys(SIDES, _TEXT),  # PNG: TFDS's own feature of pictures encodes with TensorFlow
        **{aspect: {"preferred": _NUMBER, **criticised} for aspect in aspects},
    }
    return write_dataset(folder, NAME, _ABOUT, tfds.features.FeaturesDict(features), splits)


def pair(
    scene: Scene,
    pictures: tuple[Candidate, Candidate],
    better: Mapping[str, float],
    said: Mapping[tuple[str, str], Annotation],
) -> dict:
    """An example: two pictures of a scene, which is `better` by aspect, and what was said of each (id, aspect)."""
    example = {
        "id": " ".join(each.id for each in pictures),
        "prompt": scene.prompt,
        "subjects": [
            {"name": each.name, "class_word": each.class_word, "image": png_of(each.images[0])}
            for each in scene.subjects
        ],
        **{side: png_of(each.image) for side, each in zip(SIDES, pictures, strict=True)},
    }
    for aspect, side in better.items():
        example[aspect] = {"preferred": np.float32(side)}
        for name, each in zip(SIDES, pictures, strict=True):
            found = said.get((each.id, aspect))
            example[aspect][f"critique_{name}"] = found.critique if found else ""
            score = np.nan if found is None or found.score is None else found.score
            example[aspect][f"score_{name}"] = np.float32(score)
    return example


def check_apart(scenes: Mapping[str, Iterable[Scene]]) -> None:
    """Raise InputError where two splits share a scene, or a picture of a subject."""
    seen: dict[object, str] = {}
    for split, of_split in scenes.items():
        for scene in of_split:
            keys = [(f"scene {scene.id!r}", (scene.id, scene.prompt))]
            for each in scene.subjects:
                keys += [(f"subject {each.name!r} of {scene.id!r}", png_of(image)) for image in each.images]
            for given, key in keys:
                if seen.setdefault(key, split) != split:
                    rule = f"it is in {seen[key]} and in {split}: what is tested was trained on"
                    raise InputError(given, rule, "draw them from splits that share nothing")
