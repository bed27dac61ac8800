"""Where scenes come from: the embedded world, or a file of one's own."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.images import fit_image, fitted
from narrative_jax.core.records import Preference, Scene, Subject
from narrative_jax.storybook import datasets

PHOTO_SIDE = 1024  # longest side in pixels that is kept of a photo: no encoder looks closer
SUBJECT_POLICIES = ("stop", "drop")
PICTURES = (".png", ".jpg", ".jpeg")
NAMED_IDS = 5  # how many scene ids a message names


def storybook_scenes(split: str, count: int, seed: int = 0) -> list[Scene]:
    """The first `count` Storybook scenes of a split. Raises InputError."""
    check_count("count", count, minimum=1)
    return datasets.scenes(split, range(count), seed)


def storybook_training_set(kind: str, size: int, seed: int = 0, split: str = "train") -> datasets.TrainingSet:
    """Storybook examples with random access; `kind` is "raw", "refined" or "true". Raises InputError."""
    return datasets.TrainingSet(kind, size, seed, split=split)


def read_scenes(path: str | Path) -> list[Scene]:
    """The scenes of a JSONL file, one a line, of split "user".

    A line is {"id", "prompt", "subjects": [{"class_word", "images": [paths, from the file's folder], "name"?,
    "landmarks"?: [five points of the face in each image]}]}. A point is [x, y] in shares of width and height, upright.
    Photos are JPEG, PNG, ... of any size, turned upright, on white where transparent. Raises InputError with file and
    line for whatever is missing, misspelt, no picture, or there twice.
    """
    return _read_lines(Path(path), _read_photo)


def count_scenes(path: str | Path, max_subjects: int, policy: str) -> int:
    """How many scenes `read_scenes` and `limit_subjects` will give, fast: photos are recognised but not decoded.

    Raises InputError as these do.
    """
    return len(limit_subjects(_read_lines(Path(path), _recognise), max_subjects, policy)[0])


def find_pictures(path: str | Path) -> list[tuple[Scene, Path]]:
    """Finished pictures and the scenes that they should show, of a folder or of a JSONL file.

    In a folder each PNG or JPEG stands beside a text file of its name, which holds the prompt. A line of a file is that
    of `read_scenes` with the path of a "picture", and subjects only where there are some; "landmarks" of the picture's
    faces may be there, a list of five points for each, [] for a picture without faces. Raises InputError for whatever
    is missing, misspelt, no picture, or there twice; the pictures themselves are recognised but not decoded.
    """
    path = Path(path)
    if path.is_dir():
        return _pictures_in(path)
    return _read_lines(path, _read_photo, finished=True)


def read_preferences(path: str | Path, scenes: Sequence[Scene]) -> list[Preference]:
    """People's preferences among pictures of a JSONL file; each has one of `scenes`, of its id.

    A line is {"chosen": id, "rejected": id, "aspect"?: text, "tie"?: bool}; without an aspect it is "overall". Raises
    InputError with file and line for whatever is missing, unknown or misspelt, and for pictures of unlike scenes.
    """
    found, by_id = [], {scene.id: scene for scene in scenes}
    for fields, where in _lines(Path(path)):
        for name in fields:
            check_name(f"field in {where}", name, ("chosen", "rejected", "aspect", "tie"))
        chosen, rejected = (_field(fields, name, str, where) for name in ("chosen", "rejected"))
        for id in (chosen, rejected):
            if id not in by_id:
                raise InputError(f"{where}: {id!r}", "there is no picture with this id", "name one that is collected")
        if chosen == rejected or not _alike(by_id[chosen], by_id[rejected]):
            given = f"{where}: {chosen!r} and {rejected!r}"
            rule = "a preference is between two pictures of one prompt with the same subjects"
            raise InputError(given, rule, "remove the line")
        aspect = _field(fields, "aspect", str, where) if "aspect" in fields else "overall"
        tie = fields.get("tie", False)
        if not isinstance(tie, bool):
            raise InputError(f"{where}: tie {tie!r}", "tie is true or false", "write one of them")
        found.append(Preference(chosen, rejected, aspect, tie))
    if not found:
        raise InputError(f"{path}", "it holds no preference", "write one a line, as JSON")
    return found


def _alike(one, other):
    """Whether two scenes ask for the same."""
    subjects = [[subject.images for subject in scene.subjects] for scene in (one, other)]
    same = len(subjects[0]) == len(subjects[1]) and all(map(np.array_equal, *subjects))
    return one.prompt == other.prompt and same


def _pictures_in(folder):
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
    if not files:
        raise InputError(f"{folder}", f"it holds no picture ({', '.join(PICTURES)})", "name a folder with pictures")
    found = {}
    for file in files:
        text = file.with_suffix(".txt")
        if not text.is_file():
            raise InputError(f"{file}", f"its prompt is missing: there is no {text.name}", "write it there")
        if file.stem in found:
            raise InputError(f"{file}", f"{found[file.stem][1].name} has that name too", "rename one")
        _picture(file, f"{file}", _recognise)
        found[file.stem] = Scene(file.stem, text.read_text(encoding="utf-8-sig").strip(), (), "user"), file
    return list(found.values())


def read_photo(path: str | Path) -> np.ndarray:
    """One photo u8[h, w, 3], as `read_scenes` reads it. Raises InputError where it is no picture."""
    return _picture(Path(path), f"image {path}", _read_photo)


def _read_lines(path, read, finished=False):
    """The scene of each line; where they are `finished`, with the path of its picture."""
    # One photo often serves many scenes: it is then read once and its pixels are shared.
    read = cache(read)
    scenes, line_of = [], {}
    for fields, where in _lines(path):
        picture = _find_picture(fields, where, path.parent) if finished else None
        scene = _parse_scene(fields, where, path.parent, read, finished)
        if scene.id in line_of:
            raise InputError(f"{where}: id {scene.id!r}", f"line {line_of[scene.id]} has it too", "give it another id")
        line_of[scene.id] = where.rpartition(":")[2]
        scenes.append((scene, picture) if finished else scene)
    if not scenes:
        raise InputError(f"{path}", "it holds no scene", "write one scene a line, as JSON")
    return scenes


def limit_subjects(scenes: Sequence[Scene], max_subjects: int, policy: str) -> tuple[list[Scene], list[str]]:
    """The scenes that fit a generator of `max_subjects` slots, and the ids of those that do not.

    Policy "stop" raises InputError where one does not fit; "drop" goes on without it, and raises where none is left.
    """
    check_name("max_subjects_policy", policy, SUBJECT_POLICIES)
    dropped = [scene.id for scene in scenes if len(scene.subjects) > max_subjects]
    kept = [scene for scene in scenes if len(scene.subjects) <= max_subjects]
    rule = f"the generator takes {max_subjects} subjects"
    if dropped and policy == "stop":
        remedy = 'remove them or set max_subjects_policy="drop" to go on without these scenes'
        raise InputError(f"too many subjects in {_some(dropped)}", rule, remedy)
    if not kept:
        raise InputError(f"too many subjects in all {len(scenes)} scenes", rule, "give scenes with fewer subjects")
    return kept, dropped


def _lines(path):
    """The fields of each line of a JSONL file that is not empty, and where it stands: FILE:LINE."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}", f"it cannot be read ({error})", "give a JSONL file in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _fields(line, f"{path}:{number}"), f"{path}:{number}"


def _fields(line, where):
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise InputError(where, f"it is no JSON ({error})", "write one JSON object a line") from error
    if not isinstance(fields, dict):
        raise InputError(where, "a line is a JSON object", 'write {"name": value, ...}')
    return fields


def _parse_scene(fields, where, folder, read, finished):
    identity = _field(fields, "id", str, where)
    prompt = _field(fields, "prompt", str, where)
    subjects = () if finished and "subjects" not in fields else _field(fields, "subjects", list, where)
    subjects = tuple(_parse_subject(each, where, folder, read) for each in subjects)
    return Scene(identity, prompt, subjects, "user", faces=_landmarks(fields, where) if finished else None)


def _find_picture(fields, where, folder):
    picture = folder / _field(fields, "picture", str, where)
    _picture(picture, f"{where}: picture {fields['picture']!r}", _recognise)
    return picture


def _parse_subject(fields, where, folder, read):
    if not isinstance(fields, dict):
        raise InputError(f"{where}: subject {fields!r}", "a subject is a JSON object", "give class_word and images")
    class_word = _field(fields, "class_word", str, where)
    name = _field(fields, "name", str, where) if "name" in fields else class_word
    images = []
    for image in _field(fields, "images", list, where):
        if not isinstance(image, str):
            raise InputError(f"{where}: image {image!r}", "an image is a path", "give the path of a picture")
        images.append(_picture(folder / image, f"{where}: image {image!r}", read))
    landmarks = _landmarks(fields, where)
    if landmarks is not None and len(landmarks) != len(images):
        given = f"{where}: landmarks of {len(landmarks)} images of {name!r}"
        raise InputError(given, f"there are {len(images)} images", "give five points of one face for each")
    images, landmarks = _stack(images, landmarks)
    return Subject(name, class_word, images, landmarks=landmarks)


def _landmarks(fields, where):
    """f32[n, 5, 2], None where a line has none."""
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


def _field(fields, name, kind, where):
    words = {str: "a text", list: "a list"}
    if name not in fields:
        raise InputError(where, f"{name!r} is missing (there are {', '.join(fields) or 'no fields'})", "add it")
    value = fields[name]
    if not isinstance(value, kind) or not value:
        raise InputError(f"{where}: {name} {value!r}", f"{name} is {words[kind]}, not empty", "write one")
    return value


def _picture(path, given, read):
    """What `read` makes of a picture file; `given` is what a message calls it."""
    try:
        return read(path)
    except FileNotFoundError:
        raise InputError(given, f"there is no {path}", "correct the path") from None
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise InputError(given, f"it is no readable picture ({error})", "give a JPEG or PNG file") from error


def _recognise(path):
    """A stand-in for the photo, which has a picture's beginning."""
    with Image.open(path):
        return np.empty((1, 1, 3), np.uint8)


def _read_photo(path):
    """The photo u8[h, w, 3], upright, on white where it is transparent."""
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


def _some(ids):
    named = ", ".join(ids[:NAMED_IDS])
    return named if len(ids) <= NAMED_IDS else f"{named} and {len(ids) - NAMED_IDS} more scenes"
