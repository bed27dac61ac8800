"""Preferences that were published, as their authors leave them: Pick-a-Pic, HPDv2, HPDv3 and ImageRewardDB.

Each has prompts with two pictures or more, and how people ranked these. A list in JSON names pictures beside it;
Parquet files of Pick-a-Pic hold them.
"""

import zlib
from itertools import combinations
from pathlib import Path

import numpy as np

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.records import Preference, Scene
from narrative_jax.data.own_pairs import OwnPairs
from narrative_jax.data.photos import DAMAGED_POLICIES
from narrative_jax.data.pick_a_pic import look_at_rows
from narrative_jax.data.ranked import Ranked
from narrative_jax.data.ranked_lists import look_at_list


def is_published(path: str | Path) -> bool:
    """Whether a path is a list in JSON, a Parquet file, or a folder with some somewhere below."""
    path = Path(path)
    return path.suffix in (".json", ".parquet") or (path.is_dir() and any(path.rglob("*.parquet")))


def find_published(path: str | Path, damaged_policy: str = "stop") -> OwnPairs:
    """The pairs of what `is_published`: each two pictures of a prompt, those of equal ranks as ties.

    Which of the lists it is, its fields tell: HPDv2's {prompt, file_path, human_preference} of two, 1 for the better
    one, and {prompt, image_path, rank}; HPDv3's {prompt, path1, path2}, the first the better one unless choice_dist has
    as many votes for either; ImageRewardDB's {prompt, generations, ranking}; paths from the list's folder, its train or
    its test. Pick-a-Pic has columns caption, jpg_0, jpg_1, label_0, label_1 and maybe has_label; rows that nobody
    judged are left out. A scene's pictures come in an order that tells nothing. Where a picture of a prompt is missing,
    damaged, or the same as another, or a field is no good, this raises InputError under the policy "stop", and leaves
    the prompt out under "drop". Also raises it for files that cannot be read, and where nothing is left.
    """
    check_name("damaged_policy", damaged_policy, DAMAGED_POLICIES)
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}", "there is no such file or folder", "correct the path")
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    ranked, damaged, unjudged = [], [], 0
    for file in files:
        look = look_at_rows if file.suffix == ".parquet" else look_at_list
        name = f"{file.relative_to(path if path.is_dir() else path.parent).with_suffix('')}"
        found = look(file, file.stat().st_mtime_ns, name)
        ranked.extend(found.ranked)
        damaged.extend(found.damaged)
        unjudged += found.unjudged
    if damaged and damaged_policy == "stop":
        raise InputError(*damaged[0], "give a whole one, or leave it out by damaged_policy 'drop'")
    left_out = [f"{given}: {rule}" for given, rule in damaged]
    if unjudged:
        left_out.append(f"{path}: {unjudged} rows that nobody judged")
    if not ranked:
        raise InputError(f"{path}", f"it holds no pair ({left_out[-1] if left_out else 'it is empty'})", "give some")
    pairs = OwnPairs([], [], [], left_out)
    for each in ranked:
        _add(pairs, each)
    return pairs


def _add(pairs: OwnPairs, each: Ranked) -> None:
    """Its scene, its pictures in an order by the scene's id alone, and each two as a pair."""
    pairs.scenes.append(Scene(each.id, each.prompt, (), "user"))
    order = np.random.default_rng(zlib.crc32(each.id.encode())).permutation(len(each.pictures))
    ids = {place: f"{each.id}/{new}" for new, place in enumerate(order)}
    pairs.pictures.extend((ids[place], each.id, each.pictures[place]) for place in order)
    for first, second in combinations(order, 2):
        if each.ranks[first] > each.ranks[second]:
            first, second = second, first
        tie = each.ranks[first] == each.ranks[second]
        pairs.preferences.append(Preference(ids[first], ids[second], "overall", tie))
