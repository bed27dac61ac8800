"""How each kind of record stands on disk, field by field.

Pictures are PNG bytes; the images of a subject are one PNG, stacked downward.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from io import BytesIO
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from narrative_jax.core.records import Annotation, Candidate, Preference, Scene, Score, Subject

PNG_COMPRESSION = 3  # 3 % larger than the usual 6, and a third faster


@dataclass(frozen=True)
class Field:
    """One field on disk: its feature, the way there and back, and whether it is plain: texts or numbers."""

    feature: Any
    encode: Callable
    decode: Callable
    plain: bool = True


@dataclass(frozen=True)
class Kind:
    """One kind of record on disk; `fields` are those of its class `record`."""

    record: type
    name: str
    description: str
    fields: Mapping[str, Field]

    @property
    def features(self) -> tfds.features.FeaturesDict:
        return tfds.features.FeaturesDict({name: field.feature for name, field in self.fields.items()})

    def encode(self, record) -> dict[str, Any]:
        """What of a record is written."""
        return {name: field.encode(getattr(record, name)) for name, field in self.fields.items()}

    def decode(self, values: Mapping[str, Any]):
        """The record of what is read; a field from before its time takes the class's default."""
        read = [(name, field) for name, field in self.fields.items() if name in values]
        return self.record(**{name: field.decode(values[name]) for name, field in read})


def png_of(pixels: np.ndarray) -> bytes:
    """PNG of u8[h, w, 3] or bool[h, w]."""
    png = BytesIO()
    Image.fromarray(pixels).save(png, "PNG", compress_level=PNG_COMPRESSION)
    return png.getvalue()


def _as_it_is(value):
    return value


def _decode_picture(png: bytes) -> np.ndarray:
    return np.array(Image.open(BytesIO(png)))


def _encode_points(points) -> str:
    return "" if points is None else json.dumps(np.float64(points).tolist())


def _decode_points(text: bytes) -> np.ndarray | None:
    return np.float32(json.loads(text)).reshape(-1, 5, 2) if text else None


def _encode_facts(facts) -> str:
    facts = asdict(facts) if is_dataclass(facts) else facts
    return "" if facts is None else json.dumps(facts, ensure_ascii=False)


def _decode_facts(text: bytes) -> Any:
    return json.loads(text) if text else None


def _encode_subject(subject):
    return {
        "name": subject.name,
        "class_word": subject.class_word,
        "num_images": len(subject.images),
        "images": png_of(np.concatenate(subject.images)),
        "masks": b"" if subject.masks is None else png_of(np.concatenate(subject.masks)),
        "landmarks": _encode_points(subject.landmarks),
    }


def _decode_subject(name, class_word, num_images, images, masks, landmarks=b""):
    images = np.stack(np.split(_decode_picture(images), num_images))
    masks = np.stack(np.split(_decode_picture(masks), num_images)) if masks else None
    return Subject(name.decode(), class_word.decode(), images, masks, _decode_points(landmarks))


def _encode_subjects(subjects):
    return [_encode_subject(subject) for subject in subjects]


def _decode_subjects(columns):
    present = (columns[name] for name in _SUBJECT if name in columns)  # once there were no landmarks
    return tuple(_decode_subject(*values) for values in zip(*present, strict=True))


def _encode_optional(number):
    return np.nan if number is None else number


def _decode_optional(number):
    return None if np.isnan(number) else float(number)


def _encode_numbers(numbers):
    return np.asarray(numbers, np.float32)


def _decode_numbers(numbers):
    return tuple(numbers.tolist())


_INTEGER = tfds.features.Scalar(np.int64)
_SUBJECT = {  # in the order of _decode_subject's arguments
    "name": tfds.features.Text(),
    "class_word": tfds.features.Text(),
    "num_images": _INTEGER,
    "images": tfds.features.Text(),
    "masks": tfds.features.Text(),
    "landmarks": tfds.features.Text(),
}
TEXT = Field(tfds.features.Text(), _as_it_is, bytes.decode)
INTEGER = Field(_INTEGER, _as_it_is, int)
FLAG = Field(tfds.features.Scalar(np.bool_), _as_it_is, bool)
OPTIONAL = Field(tfds.features.Scalar(np.float32), _encode_optional, _decode_optional)
NUMBERS = Field(tfds.features.Tensor(shape=(None,), dtype=np.float32), _encode_numbers, _decode_numbers)
PICTURE = Field(tfds.features.Text(), png_of, _decode_picture, plain=False)
POINTS = Field(tfds.features.Text(), _encode_points, _decode_points, plain=False)
FACTS = Field(tfds.features.Text(), _encode_facts, _decode_facts, plain=False)
SUBJECTS = Field(tfds.features.Sequence(_SUBJECT), _encode_subjects, _decode_subjects, plain=False)

_ALL = (
    Kind(
        Scene,
        "scene",
        "What is asked for. A subject's images and masks (may be empty) are one PNG each, num_images stacked downward; "
        "facts is JSON, or empty; so are landmarks and faces, [n, 5, 2] in shares of width and height.",
        {"id": TEXT, "prompt": TEXT, "split": TEXT, "subjects": SUBJECTS, "facts": FACTS, "faces": POINTS},
    ),
    Kind(
        Candidate,
        "candidate",
        "Pictures (PNG) that a generator drew for scenes.",
        {"id": TEXT, "scene_id": TEXT, "image": PICTURE, "seed": INTEGER, "generator": TEXT},
    ),
    Kind(
        Score,
        "score",
        "A reward's scores of candidates, one number for each aspect.",
        {"candidate_id": TEXT, "reward": TEXT, "scores": NUMBERS},
    ),
    Kind(
        Annotation,
        "annotation",
        "An annotator's critique of one aspect of a candidate; score is from 1 to 5, NaN where there is none.",
        {
            "candidate_id": TEXT,
            "aspect": TEXT,
            "critique": TEXT,
            "score": OPTIONAL,
            "annotator": TEXT,
            "status": TEXT,
        },
    ),
    Kind(
        Preference,
        "preference",
        "Of two candidates the preferred one; gap is the difference of scores, NaN where unknown.",
        {"chosen_id": TEXT, "rejected_id": TEXT, "aspect": TEXT, "tie": FLAG, "gap": OPTIONAL},
    ),
)
KINDS: dict[type, Kind] = {kind.record: kind for kind in _ALL}
