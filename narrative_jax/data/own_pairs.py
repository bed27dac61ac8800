"""People's own preference pairs: two pictures of one prompt and which of them is better, of a file or a folder."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Preference, Scene
from narrative_jax.core.text import composed
from narrative_jax.data.photos import Embedded, find_file, pictures_in, sieve
from narrative_jax.data.reading import field, flag, json_lines, prompt_beside, subjects_of

FIELDS = ("prompt", "chosen", "rejected", "subjects", "tie", "gap")
PREFERRED, EVEN = ("_w", "_l"), ("_e1", "_e2")  # how the names of a pair's pictures end, before .png
_LARGEST_GAP = float(np.finfo(np.float32).max)  # as records keep it


@dataclass(frozen=True)
class OwnPairs:
    """Pairs and their pictures, in order; `left_out` names what was passed over and why, one phrase each.

    `scenes`, one a pair, are of split "user". `pictures` are (candidate id, scene id, picture): those of a scene are
    ID/chosen and ID/rejected, ID/first and ID/second where neither is better. `preferences` name candidates by id.
    """

    scenes: list[Scene]
    pictures: list[tuple[str, str, Path | Embedded]]
    preferences: list[Preference]
    left_out: list[str]


@dataclass(frozen=True)
class _Pair:
    scene: Scene
    files: tuple[Path, Path]
    tie: bool
    gap: float | None = None


def find_pairs(path: str | Path, damaged_policy: str = "stop") -> OwnPairs:
    """The pairs of a JSONL file or of a folder; their pictures are looked at whole.

    A line is {"prompt": text, "chosen": path, "rejected": path, "subjects"?: as in `read_scenes`, "tie"?: bool,
    "gap"?: number}, paths from the file's folder; the id of its scene is the line's number. In a folder STEM_w.png is
    preferred to STEM_l.png, STEM_e1.png and STEM_e2.png are even (or .jpg, .webp, ...), and STEM.txt holds the prompt;
    STEM is the scene's id, and pairs are sorted by it. Hidden files are passed over; a picture without its other one is
    left out, and what is no side of a pair. With a damaged picture a pair raises InputError under the policy "stop",
    and is left out under "drop". Also raises it, with file and line, for whatever else is missing, misspelt or there
    twice, for the same picture on both sides, and where there is no pair.
    """
    path, left_out = Path(path), []
    is_whole = sieve(damaged_policy, left_out)
    pairs = _pairs_in(path, is_whole, left_out) if path.is_dir() else _pairs_of(path, is_whole)
    if not pairs:
        raise InputError(f"{path}", f"all its pairs are damaged, e.g. {left_out[-1]}", "give whole ones")
    found = OwnPairs([], [], [], left_out)
    for pair in pairs:
        sides = ("first", "second") if pair.tie else ("chosen", "rejected")
        ids = [f"{pair.scene.id}/{side}" for side in sides]
        found.scenes.append(pair.scene)
        found.pictures.extend((id, pair.scene.id, file) for id, file in zip(ids, pair.files, strict=True))
        found.preferences.append(Preference(*ids, "overall", pair.tie, pair.gap))
    return found


def _pairs_of(path, is_whole):
    """The whole pairs of a JSONL file."""
    lines = tqdm(json_lines(path, FIELDS), f"{path}", delay=5)
    pairs = [_pair(fields, where, path.parent, is_whole) for fields, where in lines]
    if not pairs:
        raise InputError(f"{path}", "it holds no pair", "write one a line, as JSON")
    return [pair for pair in pairs if pair]


def _pair(fields, where, folder, is_whole):
    """The pair of a line, None where a picture is damaged."""
    prompt = field(fields, "prompt", str, where).strip()
    named = {side: field(fields, side, str, where) for side in ("chosen", "rejected")}
    files = tuple(find_file(folder, name) for name in named.values())
    subjects = subjects_of(fields, where, folder) if "subjects" in fields else ()
    pair = _Pair(
        Scene(where.rpartition(":")[2], prompt, subjects, "user"),
        files,
        flag(fields, "tie", where),
        _gap(fields, where),
    )
    return pair if _are_whole(files, [f"{where}: {side} {name!r}" for side, name in named.items()], is_whole) else None


def _pairs_in(folder, is_whole, left_out):
    """The whole pairs of a folder, in order of their stems."""
    sides = _sides_in(folder, left_out)
    pairs = []
    for stem, files in sorted(sides.items()):
        for one, other in (PREFERRED, PREFERRED[::-1], EVEN, EVEN[::-1]):
            if one in files and other not in files:
                left_out.append(f"{files[one].name}: there is no {stem}{other}")
        whole = [kind for kind in (PREFERRED, EVEN) if files.keys() >= set(kind)]
        if len(whole) == 2:
            given = f"{files[PREFERRED[0]]} and {files[EVEN[0]].name}"
            raise InputError(given, "of one pair either one is preferred or both are even", "rename one pair")
        pairs.extend((stem, tuple(files[ending] for ending in kind), kind == EVEN) for kind in whole)
    left_out.sort()
    if not pairs:
        rule = f"it holds no pair ({left_out[0] if left_out else 'it has no picture'})"
        remedy = "name pictures STEM_w.png and STEM_l.png where one is preferred, STEM_e1.png and STEM_e2.png where not"
        raise InputError(f"{folder}", rule, remedy)
    return [
        _Pair(Scene(stem, prompt_beside(files[0], stem), (), "user"), files, tie)
        for stem, files, tie in tqdm(pairs, f"{folder}", delay=5)
        if _are_whole(files, files, is_whole)
    ]


def _sides_in(folder, left_out):
    """The pictures of each stem by their ending."""
    pictures, others = pictures_in(folder)
    left_out.extend(others)
    sides = defaultdict(dict)
    for file in pictures:
        stem = composed(file.stem)
        ending = next((each for each in PREFERRED + EVEN if stem.endswith(each) and stem != each), None)
        if ending is None:
            left_out.append(f"{file.name}: its name ends in none of {', '.join(PREFERRED + EVEN)}")
            continue
        files = sides[stem.removesuffix(ending)]
        if ending in files:
            raise InputError(f"{file}", f"{files[ending].name} has that name too", "remove one of them")
        files[ending] = file
    return sides


def _are_whole(files, given, is_whole):
    """Whether both pictures are. Raises InputError where they are the same."""
    if not all([is_whole(file, f"{each}") for file, each in zip(files, given, strict=True)]):
        return False
    one, other = files
    if one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes():
        raise InputError(f"{given[0]} and {other.name}", "they are the same picture", "give two that differ")
    return True


def _gap(fields, where):
    """The difference of scores, None where it is not given."""
    if "gap" not in fields:
        return None
    gap = fields["gap"]
    if isinstance(gap, bool) or not isinstance(gap, int | float) or not abs(gap) <= _LARGEST_GAP:
        rule = f"gap is a finite number, at most {_LARGEST_GAP:.1e}"
        raise InputError(f"{where}: gap {gap!r}", rule, "give the difference of two scores, or leave it out")
    return float(gap)
