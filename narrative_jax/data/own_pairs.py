"""People's own preference pairs: two pictures of one prompt and which of them is better, of a file or a folder."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.records import Preference, Scene
from narrative_jax.data.reading import (
    PICTURES,
    field,
    flag,
    json_lines,
    open_picture,
    prompt_beside,
    recognise,
    subjects_of,
    upright_photo,
)

FIELDS = ("prompt", "chosen", "rejected", "subjects", "tie", "gap")
PREFERRED, EVEN = ("_w", "_l"), ("_e1", "_e2")  # how the names of a pair's pictures end, before .png
_LARGEST_GAP = float(np.finfo(np.float32).max)  # as records keep it


@dataclass(frozen=True)
class OwnPairs:
    """Pairs and their pictures as files, in order; `left_out` names what was passed over and why, one phrase each.

    `scenes`, one a pair, are of split "user". `pictures` are (candidate id, scene id, file): those of a scene are
    ID/chosen and ID/rejected, ID/first and ID/second where neither is better. `preferences` name candidates by id.
    """

    scenes: list[Scene]
    pictures: list[tuple[str, str, Path]]
    preferences: list[Preference]
    left_out: list[str]


@dataclass(frozen=True)
class _Pair:
    scene: Scene
    files: tuple[Path, Path]
    tie: bool
    gap: float | None = None


def find_pairs(path: str | Path) -> OwnPairs:
    """The pairs of a JSONL file or of a folder; their pictures are recognised but not decoded.

    A line is {"prompt": text, "chosen": path, "rejected": path, "subjects"?: as in `read_scenes`, "tie"?: bool,
    "gap"?: number}, paths from the file's folder; the id of its scene is the line's number. In a folder STEM_w.png is
    preferred to STEM_l.png, STEM_e1.png and STEM_e2.png are even (or .jpg, .jpeg), and STEM.txt holds the prompt; STEM
    is the scene's id, and pairs are sorted by it. Hidden files are passed over; a picture without its other one is left
    out. Raises InputError, with file and line, for whatever else is missing, misspelt, no picture or there twice, for
    the same picture on both sides, and where there is no pair.
    """
    path = Path(path)
    pairs, left_out = _pairs_in(path) if path.is_dir() else _pairs_of(path)
    found = OwnPairs([], [], [], left_out)
    for pair in pairs:
        sides = ("first", "second") if pair.tie else ("chosen", "rejected")
        ids = [f"{pair.scene.id}/{side}" for side in sides]
        found.scenes.append(pair.scene)
        found.pictures.extend((id, pair.scene.id, file) for id, file in zip(ids, pair.files, strict=True))
        found.preferences.append(Preference(*ids, "overall", pair.tie, pair.gap))
    return found


def _pairs_of(path):
    """The pairs of a JSONL file, of which none is left out."""
    read = cache(upright_photo)  # one photo often serves many pairs
    pairs = [_pair(fields, where, path.parent, read) for fields, where in json_lines(path)]
    if not pairs:
        raise InputError(f"{path}", "it holds no pair", "write one a line, as JSON")
    return pairs, []


def _pair(fields, where, folder, read):
    for name in fields:
        check_name(f"field in {where}", name, FIELDS)
    prompt = _prompt(field(fields, "prompt", str, where), f"{where}: prompt {fields['prompt']!r}")
    named = {side: field(fields, side, str, where) for side in ("chosen", "rejected")}
    files = tuple(folder / name for name in named.values())
    _check_pictures(files, [f"{where}: {side} {name!r}" for side, name in named.items()])
    subjects = subjects_of(fields, where, folder, read) if "subjects" in fields else ()
    scene = Scene(where.rpartition(":")[2], prompt, subjects, "user")
    return _Pair(scene, files, flag(fields, "tie", where), _gap(fields, where))


def _pairs_in(folder):
    """The pairs of a folder, in order of their stems, and what is left out."""
    sides, left_out = _sides_in(folder)
    pairs = []
    for stem, files in sorted(sides.items()):
        for one, other in (PREFERRED, PREFERRED[::-1], EVEN, EVEN[::-1]):
            if one in files and other not in files:
                left_out.append(f"{files[one].name}: there is no {stem}{other}")
        whole = [kind for kind in (PREFERRED, EVEN) if files.keys() >= set(kind)]
        if len(whole) == 2:
            given = f"{files[PREFERRED[0]]} and {files[EVEN[0]].name}"
            raise InputError(given, "of one pair either one is preferred or both are even", "rename one pair")
        pairs.extend(_pair_of(stem, tuple(files[ending] for ending in kind), kind == EVEN) for kind in whole)
    left_out.sort()
    if not pairs:
        rule = f"it holds no pair ({left_out[0] if left_out else 'it has no picture'})"
        remedy = "name pictures STEM_w.png and STEM_l.png where one is preferred, STEM_e1.png and STEM_e2.png where not"
        raise InputError(f"{folder}", rule, remedy)
    return pairs, left_out


def _sides_in(folder):
    """The pictures of each stem by their ending, and what is no side of a pair."""
    sides, left_out = defaultdict(dict), []
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or file.is_dir():
            continue
        ending = next((each for each in PREFERRED + EVEN if file.stem.endswith(each) and file.stem != each), None)
        is_picture = file.suffix.lower() in PICTURES
        if is_picture and ending:
            files = sides[file.stem.removesuffix(ending)]
            if ending in files:
                raise InputError(f"{file}", f"{files[ending].name} has that name too", "remove one of them")
            files[ending] = file
        elif is_picture:
            left_out.append(f"{file.name}: its name ends in none of {', '.join(PREFERRED + EVEN)}")
        elif ending and file.suffix.lower() != ".txt":  # a prompt's stem may end so
            left_out.append(f"{file.name}: a picture here is one of {', '.join(PICTURES)}")
    return sides, left_out


def _pair_of(stem, files, tie):
    prompt = _prompt(prompt_beside(files[0], stem), f"{files[0].with_name(stem)}.txt")
    _check_pictures(files, files)
    return _Pair(Scene(stem, prompt, (), "user"), files, tie)


def _prompt(text, given):
    if not text.strip():
        raise InputError(given, "a prompt is a text, not empty", "write what both pictures should show")
    return text.strip()


def _check_pictures(files, given):
    for file, each in zip(files, given, strict=True):
        open_picture(file, f"{each}", recognise)
    one, other = files
    if one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes():
        raise InputError(f"{given[0]} and {other.name}", "they are the same picture", "give two that differ")


def _gap(fields, where):
    """The difference of scores, None where it is not given."""
    if "gap" not in fields:
        return None
    gap = fields["gap"]
    if isinstance(gap, bool) or not isinstance(gap, int | float) or not abs(gap) <= _LARGEST_GAP:
        rule = f"gap is a finite number, at most {_LARGEST_GAP:.1e}"
        raise InputError(f"{where}: gap {gap!r}", rule, "give the difference of two scores, or leave it out")
    return float(gap)
