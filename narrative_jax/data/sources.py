"""Where scenes come from: the embedded world, or a file of one's own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.records import Preference, Scene, Subject
from narrative_jax.core.text import composed
from narrative_jax.data.photos import SUFFIXES, as_photo, find_file, pictures_in, sieve
from narrative_jax.data.reading import field, flag, identity, json_lines, landmarks_of, prompt_beside, subjects_of
from narrative_jax.storybook import datasets

Portraits = Sequence[str | Path | Image.Image | np.ndarray]
MOST_CHARACTERS = datasets.WORLD.max_characters
SUBJECT_POLICIES = ("stop", "drop")
_SCENE = ("id", "prompt", "subjects")
NAMED_IDS = 5  # how many scene ids a message names


def storybook_scenes(split: str, count: int, seed: int = 0, characters: int = MOST_CHARACTERS) -> list[Scene]:
    """The first `count` Storybook scenes of a split, of so many characters at most. Raises InputError."""
    check_count("count", count, minimum=1)
    return datasets.scenes(split, range(count), seed, world=datasets.World(characters))


def storybook_training_set(
    kind: str, size: int, seed: int = 0, split: str = "train", characters: int = MOST_CHARACTERS
) -> datasets.TrainingSet:
    """Storybook examples with random access; `kind` is one of its `KINDS`. Raises InputError."""
    return datasets.TrainingSet(kind, size, seed, datasets.World(characters), split)


def read_scenes(path: str | Path) -> list[Scene]:
    """The scenes of a JSONL file, one a line, of split "user".

    A line is {"id", "prompt", "subjects": [{"class_word", "images": [paths, from the file's folder], "name"?,
    "landmarks"?: [five points of the face in each image]}]}. A point is [x, y] in shares of width and height, upright.
    Photos are PNG, JPEG, WebP, TIFF or BMP of any size, turned upright, on white where transparent; each is looked at
    whole, and read when it is needed. Raises InputError with file and line for whatever is missing, misspelt, no
    picture, or there twice.
    """
    return [scene for scene, _ in _read_lines(Path(path))]


def own_scene(prompt: str, portraits: Portraits = ()) -> Scene:
    """A scene of one's own: a prompt that names the characters in the order of their portraits.

    A portrait is a picture file, a PIL picture or u8[h, w, 3], of any size. Raises InputError for an empty prompt and
    what is no picture.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"prompt {prompt!r}", "it says what to draw", 'give one, e.g. "Mara waves in the forest"')
    return Scene(prompt, prompt, own_subjects(portraits), "user")


def own_subjects(portraits: Portraits) -> tuple[Subject, ...]:
    """Subjects with a portrait each, see `own_scene`."""
    if isinstance(portraits, str | Path) or hasattr(portraits, "__array__"):
        raise InputError(f"portraits of type {type(portraits).__name__}", "they are a list", "write [portrait]")
    images = [as_photo(each, f"portrait {place}") for place, each in enumerate(portraits, start=1)]
    return tuple(Subject(f"subject {place}", "", image[None]) for place, image in enumerate(images, start=1))


def find_pictures(path: str | Path, damaged_policy: str = "stop") -> tuple[list[tuple[Scene, Path]], list[str]]:
    """Finished pictures with the scenes that they should show, of a folder or of a JSONL file, and what is left out.

    In a folder each picture stands beside a text file of its name, which holds the prompt; what else is there is left
    out, a phrase for each, and hidden files are passed over. A line of a file is that of `read_scenes` with the path of
    a "picture", and subjects only where there are some; "landmarks" of the picture's faces may be there, a list of five
    points for each, [] for a picture without faces. A damaged picture raises InputError under the policy "stop", and is
    left out under "drop". Also raises it for whatever is missing, misspelt, or there twice.
    """
    path, left_out = Path(path), []
    is_whole = sieve(damaged_policy, left_out)
    kept = _pictures_in(path, is_whole, left_out) if path.is_dir() else _read_lines(path, is_whole)
    if not kept:
        raise InputError(f"{path}", f"all its pictures are damaged, e.g. {left_out[-1]}", "give whole ones")
    return kept, left_out


def read_preferences(path: str | Path, scenes: Sequence[Scene]) -> list[Preference]:
    """People's preferences among pictures of a JSONL file; each has one of `scenes`, of its id.

    A line is {"chosen": id, "rejected": id, "aspect"?: text, "tie"?: bool}; without an aspect it is "overall". Raises
    InputError with file and line for whatever is missing, unknown or misspelt, and for pictures of unlike scenes.
    """
    found, by_id = [], {scene.id: scene for scene in scenes}
    for fields, where in json_lines(Path(path), ("chosen", "rejected", "aspect", "tie")):
        chosen, rejected = (identity(fields, name, where) for name in ("chosen", "rejected"))
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


def _pictures_in(folder, is_whole, left_out):
    files, others = pictures_in(folder)
    left_out.extend(others)
    if not files:
        rule = f"it holds no picture ({', '.join(SUFFIXES)})"
        raise InputError(f"{folder}", rule, "name a folder with pictures")
    found = {}
    for file in files:
        name = composed(file.stem)
        if name in found:
            raise InputError(f"{file}", f"{found[name][1].name} has that name too", "rename one")
        found[name] = Scene(name, prompt_beside(file, file.stem), (), "user"), file
    bar = tqdm(found.values(), f"{folder}", delay=5)
    return [(scene, file) for scene, file in bar if is_whole(file, f"{file}")]


def _read_lines(path, is_whole=None):
    """The scene of each line; where pictures are asked for, with the path of its own, if that is whole."""
    scenes, line_of = [], {}
    lines = json_lines(path, (*_SCENE, "picture", "landmarks") if is_whole else _SCENE)
    for fields, where in tqdm(lines, f"{path}", delay=5):
        scene = _parse_scene(fields, where, path.parent, finished=is_whole is not None)
        if scene.id in line_of:
            raise InputError(f"{where}: id {scene.id!r}", f"line {line_of[scene.id]} has it too", "give it another id")
        line_of[scene.id] = where.rpartition(":")[2]
        picture = find_file(path.parent, field(fields, "picture", str, where)) if is_whole else None
        if picture is None or is_whole(picture, f"{where}: picture {fields['picture']!r}"):
            scenes.append((scene, picture))
    if not line_of:
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


def _parse_scene(fields, where, folder, finished):
    id, prompt = identity(fields, "id", where), field(fields, "prompt", str, where)
    subjects = () if finished and "subjects" not in fields else subjects_of(fields, where, folder)
    return Scene(id, prompt, subjects, "user", faces=landmarks_of(fields, where) if finished else None)


def _some(ids):
    named = ", ".join(ids[:NAMED_IDS])
    return named if len(ids) <= NAMED_IDS else f"{named} and {len(ids) - NAMED_IDS} more scenes"
