"""What people write by hand and photograph: JSONL lines and their fields, subjects, prompts and pictures."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import fit_image, fitted
from narrative_jax.core.records import Subject

PICTURES = (".png", ".jpg", ".jpeg")  # what counts as a picture in a folder; a line may name any that Pillow reads
PHOTO_SIDE = 1024  # longest side in pixels that is kept of a photo: no encoder looks closer
_KINDS = {str: "a text", list: "a list"}
_LYING = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_PNG_START = 8  # bytes before the first chunk


def json_lines(path: Path) -> Iterator[tuple[dict, str]]:
    """The fields of each line of a JSONL file that is not blank, and where it stands: FILE:LINE.

    A line ends with LF or CRLF only: JSON allows all other separators within a text. Raises InputError.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}", f"it cannot be read ({error})", "give a JSONL file in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _fields(line, f"{path}:{number}"), f"{path}:{number}"


def field(fields: dict, name: str, kind: type, where: str) -> Any:
    """A field that must be there, a text or a list (`kind` is str or list), not empty. Raises InputError."""
    if name not in fields:
        raise InputError(where, f"{name!r} is missing (there are {', '.join(fields) or 'no fields'})", "add it")
    value = fields[name]
    if not isinstance(value, kind) or not value:
        raise InputError(f"{where}: {name} {value!r}", f"{name} is {_KINDS[kind]}, not empty", "write one")
    return value


def flag(fields: dict, name: str, where: str) -> bool:
    """A field that is true or false, False where it is not there. Raises InputError."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"{where}: {name} {value!r}", f"{name} is true or false", "write one of them")
    return value


def subjects_of(fields: dict, where: str, folder: Path, read: Callable[[Path], np.ndarray]) -> tuple[Subject, ...]:
    """The field "subjects", not empty; paths are from `folder`, `read` is `upright_photo` or `recognise`.

    Raises InputError for whatever is missing or no picture.
    """
    return tuple(_subject(each, where, folder, read) for each in field(fields, "subjects", list, where))


def landmarks_of(fields: dict, where: str) -> np.ndarray | None:
    """The field "landmarks" of n faces, f32[n, 5, 2], None where it is not there. Raises InputError."""
    if "landmarks" not in fields:
        return None
    try:
        points = np.array(fields["landmarks"], np.float32)
    except (TypeError, ValueError):
        points = np.zeros(1)
    points = points.reshape(0, 5, 2) if points.shape == (0,) else points
    if points.shape[1:] != (5, 2) or not (np.abs(points - 0.5) <= 1).all() or not (np.ptp(points, 1) > 0).all():
        rule = "landmarks are five points [x, y] for each face, in shares of the picture's width and height"
        remedy = "divide pixels by the picture's sides; eyes, nose, corners of the mouth, the viewer's left first"
        raise InputError(f"{where}: landmarks {str(fields['landmarks'])[:60]}", rule, remedy)
    return points


def prompt_beside(picture: Path, stem: str) -> str:
    """The text of STEM.txt in the folder of a picture, stripped. Raises InputError where there is none in UTF-8."""
    text = picture.with_name(f"{stem}.txt")
    if not text.is_file():
        raise InputError(f"{picture}", f"its prompt is missing: there is no {text.name}", "write it there")
    try:
        return text.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{text}", f"it cannot be read ({error})", "write the prompt there in UTF-8") from error


def open_picture(path: Path, given: str, read: Callable[[Path], Any]) -> Any:
    """What `read` makes of a picture file; `given` is what a message calls it.

    Raises InputError where there is none, or none that can be read.
    """
    try:
        return read(path)
    except FileNotFoundError:
        raise InputError(given, f"there is no {path}", "correct the path") from None
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise InputError(given, f"it is no readable picture ({error})", "give a JPEG or PNG file") from error


def recognise(path: Path) -> np.ndarray:
    """A stand-in u8[1, 1, 3] for a file that has a picture's beginning; nothing is decoded. Raises as Pillow does."""
    with Image.open(path):
        return np.empty((1, 1, 3), np.uint8)


def upright_photo(path: Path) -> np.ndarray:
    """The photo u8[h, w, 3], upright, on white where transparent, at most PHOTO_SIDE long. Raises as Pillow does."""
    with Image.open(path) as opened:
        photo = ImageOps.exif_transpose(opened)
    if photo.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255
        photo = Image.fromarray((np.asarray(photo) >> 8).astype(np.uint8))
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    photo = photo.convert("RGB")
    photo.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    return np.array(photo)


def picture_size(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels of a picture file, upright and not reduced, without decoding it.

    Raises InputError where it is no picture.
    """
    return open_picture(Path(path), f"picture {path}", _upright_size)


def _fields(line, where):
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise InputError(where, f"it is no JSON ({error})", "write one JSON object a line") from error
    if not isinstance(fields, dict):
        raise InputError(where, "a line is a JSON object", 'write {"name": value, ...}')
    return fields


def _subject(fields, where, folder, read):
    if not isinstance(fields, dict):
        raise InputError(f"{where}: subject {fields!r}", "a subject is a JSON object", "give class_word and images")
    class_word = field(fields, "class_word", str, where)
    name = field(fields, "name", str, where) if "name" in fields else class_word
    images = []
    for image in field(fields, "images", list, where):
        if not isinstance(image, str):
            raise InputError(f"{where}: image {image!r}", "an image is a path", "give the path of a picture")
        images.append(open_picture(folder / image, f"{where}: image {image!r}", read))
    landmarks = landmarks_of(fields, where)
    if landmarks is not None and len(landmarks) != len(images):
        given = f"{where}: landmarks of {len(landmarks)} images of {name!r}"
        raise InputError(given, f"there are {len(images)} images", "give five points of one face for each")
    images, landmarks = _stack(images, landmarks)
    return Subject(name, class_word, images, landmarks=landmarks)


def _stack(images, landmarks):
    """Photos of one subject as one array: of different sizes, each stands in a white square as large as the largest.

    With the landmarks, where they then are.
    """
    if len({image.shape for image in images}) > 1:
        side = max(max(image.shape[:2]) for image in images)
        if landmarks is not None:
            places = np.float32([fitted(*image.shape[:2], side) for image in images])[:, None]
            landmarks = (places[..., [3, 2]] + landmarks * places[..., [1, 0]]) / side
        images = [fit_image(image, side) for image in images]
    return np.stack(images), landmarks


def _upright_size(path):
    with Image.open(path) as opened:
        width, height = opened.size
        if opened.format == "TIFF":  # Pillow has turned this size already
            return height, width
        # Of a PNG Pillow decodes the pixels to see what is noted behind them: here only where there is something.
        decode = opened.format == "PNG" and _notes_behind_pixels(path)
        exif = opened.getexif() if decode else Image.Image.getexif(opened)
        return (width, height) if exif.get(ExifTags.Base.Orientation) in _LYING else (height, width)


def _notes_behind_pixels(path):
    """Whether a PNG has chunks of text or EXIF behind its pixels."""
    chunks = []
    with path.open("rb") as file:
        file.seek(_PNG_START)
        while len(start := file.read(8)) == 8:
            chunks.append(start[4:])
            file.seek(int.from_bytes(start[:4], "big") + 4, 1)  # its bytes and their checksum
    return not {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}.isdisjoint(chunks[chunks.index(b"IDAT") :])
