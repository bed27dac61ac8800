"""Pictures as people have them: which files are some, whether they are whole, and how they are read."""

import os
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.text import check_text, composed

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")  # what is a picture in a folder
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")  # what is read, whatever its name
PHOTO_SIDE = 1024  # longest side in pixels that is kept of a photo: no encoder looks closer
DAMAGED_POLICIES = ("stop", "drop")
_LYING = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_PNG_START = 8  # bytes before the first chunk


class DamagedPictureError(InputError):
    """A file that is there, and no picture that can be read."""


class Embedded(Protocol):
    """A picture within a file of many; `size` is its height and width in pixels."""

    size: tuple[int, int]

    def read(self) -> np.ndarray:
        """u8[h, w, 3]. Raises InputError."""

    def stat(self) -> os.stat_result:
        """Of the file, which tells whether it changed."""


def read_photo(path: str | Path | Embedded, given: str = "") -> np.ndarray:
    """One photo u8[h, w, 3], upright, on white where transparent, at most PHOTO_SIDE long; `given` is its name.

    Raises InputError where there is none, and for what would be read wrongly.
    """
    return _open(Path(path), given or f"image {path}", _upright) if isinstance(path, str | Path) else path.read()


def decode_photo(data: bytes, given: str) -> np.ndarray:
    """A picture's bytes as u8[h, w, 3], on white where transparent, neither turned nor reduced. Raises InputError."""
    return _open(BytesIO(data), given, _as_stored)


def size_of_whole(data: bytes, given: str) -> tuple[int, int]:
    """Height and width of a picture's bytes as they are stored, looked at to the last one. Raises InputError."""
    return _open(BytesIO(data), given, _look_through)


def as_photo(picture: str | Path | Image.Image | np.ndarray, given: str) -> np.ndarray:
    """`read_photo` of a file, of a PIL picture, or an array u8[h, w, 3] as it is. Raises InputError for all else."""
    if isinstance(picture, str | Path):
        return read_photo(picture)
    if isinstance(picture, Image.Image):
        return _open(picture, given, _upright_copy)
    if not hasattr(picture, "__array__"):
        rule = "a picture is a file, a PIL picture or an array"
        raise InputError(f"{given} of type {type(picture).__name__}", rule, "give one of these")
    array = np.asarray(picture)
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size:
        return array
    shape = " × ".join(map(str, array.shape))
    raise InputError(f"{given} of {shape} {array.dtype}", "an array of a picture is uint8[h, w, 3]", _remedy(array))


def _remedy(array):
    if array.dtype != np.uint8:
        return "multiply values from 0 to 1 by 255, round, and take .astype(np.uint8)"
    if array.ndim == 3 and array.shape[0] == 3:
        return "move the channels to the end: np.moveaxis(picture, 0, -1)"
    return "give one picture, of three channels, or PIL's: Image.fromarray(picture)"


def check_picture(path: Path, given: str) -> None:
    """Raise InputError, in which `given` is its name, unless this is a picture that is read, whole to its last byte."""
    _open(path, given, lambda path: _look_at(path, path.stat().st_mtime_ns))


def sieve(damaged_policy: str, left_out: list[str]) -> Callable[[Path, str], bool]:
    """What tells whether a picture is whole, of its file and its name in messages.

    Under "stop" it raises InputError for a damaged one, under "drop" it adds a phrase to `left_out`; a missing one
    always raises.
    """
    check_name("damaged_policy", damaged_policy, DAMAGED_POLICIES)

    def is_whole(file, given):
        try:
            check_picture(file, given)
        except DamagedPictureError as error:
            if damaged_policy == "stop":
                raise
            left_out.append(f"{error}")
            return False
        return True

    return is_whole


def has_transparency(path: Path) -> bool:
    """Whether a picture file says how opaque it is; it is not decoded. Raises InputError where it is no picture."""
    return _open(path, f"picture {path}", _says_how_opaque)


def read_transparency(path: Path) -> np.ndarray:
    """How transparent a photo is that `has_transparency`, as a picture u8[h, w, 3], white where nothing is there.

    It is turned and reduced as `read_photo` does. Raises InputError as that.
    """
    return _open(path, f"image {path}", _transparency)


def picture_size(path: str | Path | Embedded) -> tuple[int, int]:
    """Height and width in pixels of a picture, upright and not reduced, without decoding it.

    Raises InputError where it is no picture.
    """
    return _open(Path(path), f"picture {path}", _upright_size) if isinstance(path, str | Path) else path.size


def reduced_size(height: int, width: int) -> tuple[int, int]:
    """What is kept of a photo of this height and width."""
    scale = min(1, PHOTO_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def pictures_in(folder: Path) -> tuple[list[Path], list[str]]:
    """The pictures of a folder by name, and what else is there but prompts, folders and hidden files, a phrase each.

    Raises InputError for a folder that cannot be read, and for a name that has no UTF-8 form.
    """
    found, left_out = [], []
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}", f"it cannot be read ({error.strerror})", "correct the path") from error
    for file in files:
        check_text(f"{folder}: file name", file.name)
        if file.suffix.lower() in SUFFIXES and not file.is_dir():
            found.append(file)
        elif file.suffix.lower() != ".txt" and not file.is_dir():
            left_out.append(f"{file.name}: a picture is one of {', '.join(SUFFIXES)}")
    return found, left_out


def find_file(folder: Path, name: str) -> Path:
    """The file of this name, a path from `folder`; ~ is the home. A part that is not there by this spelling is found
    by another Unicode form of it.
    """
    path = folder / Path(name).expanduser()
    if path.exists():
        return path
    found = Path(path.anchor)
    for part in path.parts[bool(path.anchor) :]:
        there = found / part
        if not there.exists() and found.is_dir():
            there = next((each for each in found.iterdir() if composed(each.name) == composed(part)), there)
        found = there
    return found


def _open(path, given, read) -> Any:
    """What `read` makes of the file. Raises InputError, DamagedPictureError where the file is there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return read(path)
    except FileNotFoundError:
        raise InputError(given, f"there is no {path}", "correct the path") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DamagedPictureError(given, f"it has too many pixels ({error})", "make it smaller") from error
    except UnidentifiedImageError:
        rule = f"it is no readable picture ({', '.join(_FORMATS)})"
        raise DamagedPictureError(given, rule, "convert it, e.g. to PNG") from None
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise DamagedPictureError(given, f"it is no readable picture ({error})", "give a whole one") from error


@cache
def _look_at(path, _changed):
    """Raise as Pillow does for a file that is damaged anywhere; what was whole is not looked at again."""
    _look_through(path)


def _look_through(file):
    """Height and width. Raises as Pillow does for damage anywhere."""
    with _opened(file) as picture:
        width, height = picture.size
        if picture.format == "PNG":
            picture.verify()  # each chunk by its checksum
        else:
            picture.draft("L", (1, 1))  # of a JPEG an eighth, which needs all bytes too
            picture.load()
    return height, width


@contextmanager
def _opened(path):
    """The picture of a file, not decoded. Raises ValueError for what would be read wrongly."""
    with Image.open(path, formats=_FORMATS) as picture:
        _check(picture)
        yield picture


def _check(picture):
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # as phones write JPEG: the others are previews
        raise ValueError(f"it holds {frames}, a film or pages")
    if picture.mode in ("F", "I", "LAB"):
        raise ValueError(f"nobody knows which of its values of mode {picture.mode} are white")
    if picture.mode == "CMYK" and "icc_profile" in picture.info:
        raise ValueError("it is made for print, in inks of its own profile: save it in RGB")


def _says_how_opaque(path):
    with _opened(path) as opened:
        return opened.has_transparency_data


def _as_stored(file):
    with _opened(file) as opened:
        return _flattened(_coloured(opened))


def _upright(path):
    with _opened(path) as opened:
        return _upright_copy(opened)


def _upright_copy(picture):
    return _flattened(_upright_photo(picture))


def _transparency(path):
    with _opened(path) as opened:
        opacity = np.asarray(_upright_photo(opened).getchannel("A"))
    return np.repeat(255 - opacity[..., None], 3, axis=-1)


def _upright_photo(picture):
    """As PIL's, of mode RGB, or RGBA where it has transparency."""
    _check(picture)
    photo = _coloured(ImageOps.exif_transpose(picture))
    height, width = reduced_size(photo.height, photo.width)
    return photo.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)


def _coloured(photo):
    if photo.mode.startswith("I;16"):  # which Pillow would clip at 255
        if "transparency" in photo.info:
            raise ValueError("16 bits a pixel of which one value is transparent")
        photo = Image.fromarray((np.asarray(photo) >> 8).astype(np.uint8))
    return photo.convert("RGBA" if photo.has_transparency_data else "RGB")


def _flattened(photo):
    if photo.mode == "RGBA":
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")
    return np.array(photo)


def _upright_size(path):
    with _opened(path) as opened:
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
