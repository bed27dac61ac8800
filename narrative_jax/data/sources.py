"""Where scenes come from: the embedded world, or a file of one's own."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.records import Preference, Scene
from narrative_jax.data.reading import (
    PICTURES,
    field,
    flag,
    json_lines,
    landmarks_of,
    open_picture,
    prompt_beside,
    recognise,
    subjects_of,
    upright_photo,
)
from narrative_jax.storybook import datasets

SUBJECT_POLICIES = ("stop", "drop")
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
    return _read_lines(Path(path), upright_photo)


def count_scenes(path: str | Path, max_subjects: int, policy: str) -> int:
    """How many scenes `read_scenes` and `limit_subjects` will give, fast: photos are recognised but not decoded.

    Raises InputError as these do.
    """
    return len(limit_subjects(_read_lines(Path(path), recognise), max_subjects, policy)[0])


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
    return _read_lines(path, upright_photo, finished=True)


def read_preferences(path: str | Path, scenes: Sequence[Scene]) -> list[Preference]:
    """People's preferences among pictures of a JSONL file; each has one of `scenes`, of its id.

    A line is {"chosen": id, "rejected": id, "aspect"?: text, "tie"?: bool}; without an aspect it is "overall". Raises
    InputError with file and line for whatever is missing, unknown or misspelt, and for pictures of unlike scenes.
    """
    found, by_id = [], {scene.id: scene for scene in scenes}
    for fields, where in json_lines(Path(path)):
        for name in fields:
            check_name(f"field in {where}", name, ("chosen", "rejected", "aspect", "tie"))
        chosen, rejected = (field(fields, name, str, where) for name in ("chosen", "rejected"))
        for id in (chosen, rejected):
            if id not in by_id:
                raise InputError(f"{where}: {id!r}", "there is no picture with this id", "name one that is collected")
        if chosen == rejected or not _alike(by_id[chosen], by_id[rejected]):
            given = f"{where}: {chosen!r} and {rejected!r}"
            rule = "a preference is between two pictures of one prompt with the same subjects"
            raise InputError(given, rule, "remove the line")
        aspect = field(fields, "aspect", str, where) if "aspect" in fields else "overall"
        found.append(Preference(chosen, rejected, aspect, flag(fields, "tie", where)))
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
        prompt = prompt_beside(file, file.stem)
        if file.stem in found:
            raise InputError(f"{file}", f"{found[file.stem][1].name} has that name too", "rename one")
        open_picture(file, f"{file}", recognise)
        found[file.stem] = Scene(file.stem, prompt, (), "user"), file
    return list(found.values())


def read_photo(path: str | Path) -> np.ndarray:
    """One photo u8[h, w, 3], as `read_scenes` reads it. Raises InputError where it is no picture."""
    return open_picture(Path(path), f"image {path}", upright_photo)


def _read_lines(path, read, finished=False):
    """The scene of each line; where they are `finished`, with the path of its picture."""
    # One photo often serves many scenes: it is then read once and its pixels are shared.
    read = cache(read)
    scenes, line_of = [], {}
    for fields, where in json_lines(path):
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


def _parse_scene(fields, where, folder, read, finished):
    identity = field(fields, "id", str, where)
    prompt = field(fields, "prompt", str, where)
    subjects = () if finished and "subjects" not in fields else subjects_of(fields, where, folder, read)
    return Scene(identity, prompt, subjects, "user", faces=landmarks_of(fields, where) if finished else None)


def _find_picture(fields, where, folder):
    picture = folder / field(fields, "picture", str, where)
    open_picture(picture, f"{where}: picture {fields['picture']!r}", recognise)
    return picture


def _some(ids):
    named = ", ".join(ids[:NAMED_IDS])
    return named if len(ids) <= NAMED_IDS else f"{named} and {len(ids) - NAMED_IDS} more scenes"
