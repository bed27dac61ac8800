"""What a judge finds in the picture of a scene that a reward likes best, of more and more: whether choosing helps.

A reward that is right of most pairs can still be wrong about the few pictures that it likes best of all.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from narrative_jax import statistics
from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.files import write_bytes
from narrative_jax.core.markdown import table
from narrative_jax.runs.candidates import open_candidates, pictures_entry
from narrative_jax.runs.directory import Context
from narrative_jax.runs.scores import check_score_entries, read_scores, standard_scores

INPUTS = ("gold", "sources")
ALONE = True


@dataclass(frozen=True)
class Options:
    """`gold` and the `sources` are score entries of the same pictures, as many of each scene; the `leader`, one of the
    sources, is compared with the others.
    """

    gold: str
    sources: tuple[str, ...]
    leader: str = ""


def check(context: Context, options: Options) -> None:
    """Raise InputError unless there are score entries, all of the same pictures."""
    if not options.sources:
        raise InputError("sources none", "somebody chooses", "name score entries")
    check_score_entries(context, (options.gold, *options.sources))
    if options.leader:
        check_name("leader", options.leader, options.sources)


def run(context: Context, options: Options) -> dict[str, float]:
    """Of 2, 4, 8, ... pictures of a scene the one is taken whose mean of standardised aspects is highest, or for gold
    of its aspects as they are.

    Returns <entry>/<n>{,_low,_high}, how much more gold says of that than of the pictures on average, in its own unit,
    the mean of its aspects; and <entry>/<n>_lead{,_low,_high}, how much more the leader gains, resampling scenes.
    Writes and prints a table. Of equal ones the first is taken. Raises InputError for one scene or one picture of each,
    and for scenes with other numbers of pictures.
    """
    pictures = open_candidates(context, pictures_entry(context.config, options.gold)).columns("id", "scene_id")
    rows = _rows(options.gold, pictures["scene_id"])
    gold = read_scores(context, options.gold, pictures["id"]).mean(1)[rows]
    sizes = [2**power for power in range(1, rows.shape[1].bit_length())]
    gains = {}
    for name in (options.gold, *options.sources):
        liked = gold if name == options.gold else standard_scores(context, name, pictures["id"]).mean(1)[rows]
        gains[name] = {size: _gained(liked, gold, size) for size in sizes}
    numbers, nothing = {}, np.zeros(len(rows))
    for name, of_name in gains.items():
        for size, gained in of_name.items():
            found = {"": statistics.paired_bootstrap(gained, nothing)}
            if options.leader and name != options.leader:
                found["_lead"] = statistics.paired_bootstrap(gains[options.leader][size], gained)
            for key, interval in found.items():
                ends = {"": interval.estimate, "_low": interval.low, "_high": interval.high}
                numbers |= {f"{name}/{size}{key}{end}": value for end, value in ends.items()}
    shown = _table(numbers, tuple(gains), sizes, options.leader)
    write_bytes(context.folder / "best_of.md", f"{shown}\n".encode())
    print(shown, flush=True)
    return numbers


def _rows(gold, scene_ids):
    """Where each scene's pictures stand, i[scenes, pictures]."""
    counts = Counter(scene_ids)
    if len(counts) < 2 or set(counts.values()) == {1}:
        given = f"{len(scene_ids)} pictures of {len(counts)} scenes"
        raise InputError(given, "of several pictures of each of several scenes one is taken", "draw more")
    if len(set(counts.values())) > 1:
        few, many = min(counts, key=counts.get), max(counts, key=counts.get)
        given = f"{counts[few]} pictures of scene {few!r}, {counts[many]} of {many!r}"
        raise InputError(given, f"{gold} has judged as many of each", "draw as many of each")
    return np.argsort(np.unique(scene_ids, return_inverse=True)[1], kind="stable").reshape(len(counts), -1)


def _gained(liked, gold, size):
    """Of f64[scenes, pictures] how much more gold says of the most liked of each `size` of a scene, f64[scenes].

    The pictures of a scene make as many groups as there is room for, whose mean is steadier than one.
    """
    groups = liked.shape[1] // size
    liked, seen = (each[:, : groups * size].reshape(-1, groups, size) for each in (liked, gold))
    best = np.take_along_axis(seen, liked.argmax(2)[..., None], 2)[..., 0]
    return best.mean(1) - seen.mean((1, 2))


def _table(numbers, names, sizes, leader):
    def cell(key):
        if key not in numbers:
            return "–"
        return f"{numbers[key]:+.3f} [{numbers[f'{key}_low']:+.3f}, {numbers[f'{key}_high']:+.3f}]"

    head, keys = ["gold's gain, best of", *map(str, sizes)], list(map(str, sizes))
    if leader:
        head, keys = [*head, f"lead of {leader} of {sizes[-1]}"], [*keys, f"{sizes[-1]}_lead"]
    return table(head, [[name, *(cell(f"{name}/{key}") for key in keys)] for name in names])
