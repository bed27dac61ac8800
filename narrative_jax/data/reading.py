"""What people write by hand: JSONL lines and their fields, subjects, landmarks, prompts beside pictures."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.images import fitted
from narrative_jax.core.records import Subject
from narrative_jax.core.text import check_text, composed, read_text
from narrative_jax.data.photos import check_picture, find_file
from narrative_jax.data.subject_photos import Photos

_KINDS = {str: "a text", list: "a list"}
_SUBJECT = ("class_word", "images", "name", "landmarks")


def json_lines(path: Path, known: Iterable[str]) -> Iterator[tuple[dict, str]]:
    """The fields of each line of a JSONL file that is not blank, and where it stands: FILE:LINE.

    A line ends with LF or CRLF only: JSON allows all other separators within a text. Raises InputError, for fields
    that are not `known` too.
    """
    known = list(known)
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            fields = _fields(line, where)
            _check_fields(fields, where, known)
            yield fields, where


def field(fields: dict, name: str, kind: type, where: str) -> Any:
    """A field that must be there, a text or a list (`kind` is str or list), not empty. Raises InputError."""
    if name not in fields:
        raise InputError(where, f"{name!r} is missing (there are {', '.join(fields) or 'no fields'})", "add it")
    value = fields[name]
    if not isinstance(value, kind) or not (value.strip() if kind is str else value):
        raise InputError(f"{where}: {name} {value!r}", f"{name} is {_KINDS[kind]}, not empty", "write one")
    return check_text(f"{where}: {name}", value) if kind is str else value


def identity(fields: dict, name: str, where: str) -> str:
    """A text that names something: the same for all spellings that look alike. Raises InputError as `field`."""
    return composed(field(fields, name, str, where))


def flag(fields: dict, name: str, where: str) -> bool:
    """A field that is true or false, False where it is not there. Raises InputError."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{where}: {name} {value!r}", f"{name} is true or false", "write one of them")
    return value


def subjects_of(fields: dict, where: str, folder: Path) -> tuple[Subject, ...]:
    """The field "subjects", not empty; paths are from `folder`, and pictures whole, to be read when they are asked for.

    Raises InputError for whatever is missing, misspelt or no picture.
    """
    return tuple(_subject(each, where, folder) for each in field(fields, "subjects", list, where))


def landmarks_of(fields: dict, where: str) -> np.ndarray | None:
    """The field "landmarks" of n faces, f32[n, 5, 2], None where it is not there. Raises InputError."""
    if "landmarks" not in fields:
        return None
    try:
        points = np.array(fields["landmarks"], np.float32)
    except (TypeError, ValueError, OverflowError):
        points = np.zeros(1)
    points = points.reshape(0, 5, 2) if points.shape == (0,) else points
    if points.shape[1:] != (5, 2) or not (np.abs(points - 0.5) <= 1).all() or not (np.ptp(points, 1) > 0).all():
        rule = "landmarks are five points [x, y] for each face, in shares of the picture's width and height"
        remedy = "divide pixels by the picture's sides; eyes, nose, corners of the mouth, the viewer's left first"
        raise InputError(f"{where}: landmarks {str(fields['landmarks'])[:60]}", rule, remedy)
    return points


def prompt_beside(picture: Path, stem: str) -> str:
    """The text of STEM.txt in the folder of a picture, stripped. Raises InputError where there is none."""
    text = find_file(picture.parent, f"{stem}.txt")
    if not text.is_file():
        raise InputError(f"{picture}", f"its prompt is missing: there is no {text.name}", "write it there")
    prompt = read_text(text).strip()
    if not prompt:
        raise InputError(f"{text}", "a prompt is a text, not empty", "write what the picture should show")
    return prompt


def _fields(line, where):
    try:
        fields = json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(where, f"it is no JSON ({error})", "write one JSON object a line") from error
    if not isinstance(fields, dict):
        raise InputError(where, "a line is a JSON object", 'write {"name": value, ...}')
    return fields


def _once(pairs):
    """The object of these fields, of which JSON would silently take the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return fields


def _check_fields(fields, where, known):
    for name in fields:
        check_name(f"field in {where}", check_text(f"{where}: field", name), known)


def _subject(fields, where, folder):
    if not isinstance(fields, dict):
        raise InputError(f"{where}: subject {fields!r}", "a subject is a JSON object", "give class_word and images")
    _check_fields(fields, where, _SUBJECT)
    class_word = field(fields, "class_word", str, where)
    name = field(fields, "name", str, where) if "name" in fields else class_word
    files = []
    for image in field(fields, "images", list, where):
        if not isinstance(image, str):
            raise InputError(f"{where}: image {image!r}", "an image is a path", "give the path of a picture")
        files.append(find_file(folder, check_text(f"{where}: image", image)))
        check_picture(files[-1], f"{where}: image {image!r}")
    photos, landmarks = Photos(files), landmarks_of(fields, where)
    if landmarks is not None and len(landmarks) != len(photos):
        given = f"{where}: landmarks of {len(landmarks)} images of {name!r}"
        raise InputError(given, f"there are {len(photos)} images", "give five points of one face for each")
    moved = None if landmarks is None else _moved(landmarks, photos)
    return Subject(name, class_word, photos, photos.masks(), moved)


def _moved(landmarks, photos):
    """Where the landmarks are once photos of several sizes stand in squares of one."""
    side = photos.shape[1]
    if (photos.sizes == photos.shape[1:3]).all():
        return landmarks
    places = np.float32([fitted(*size, side) for size in photos.sizes])[:, None]
    return (places[..., [3, 2]] + landmarks * places[..., [1, 0]]) / side
