"""Does a classifier that learned from renders alone read attributes as the oracle does? Writes a table.

The classifier is told where a figure stands, by the true (damaged) drawing, and reads the window round it. A place
says nothing of attributes, and nothing of the oracle's enters: neither its places nor its readings. The oracle's
figures are then matched to the true ones by place, and what both read is compared.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from narrative_jax.core.command import Parser, run
from narrative_jax.core.errors import check_count
from narrative_jax.core.markdown import table
from narrative_jax.statistics import wilson
from narrative_jax.storybook import corruptions
from narrative_jax.storybook.datasets import drawings
from narrative_jax.storybook.parse import Parse, parse
from narrative_jax.storybook.render import Drawing, render
from narrative_jax.storybook.world import ATTRIBUTES
from narrative_jax.study.classifier import read, train
from narrative_jax.study.command import check_folder, provenance

HEADER = """# Attributes by an independent classifier

{}
Of these, {:.0f} s were training.

A small CNN, trained on pictures of the train split's people alone (anywhere, also cut off, covered or short of a limb;
blur up to 0.9 pixels, noise up to 0.25), is told where each true figure of damaged tune-split pictures stands and reads
its attributes. Compared are those that the oracle calls visible, on the figure that it finds within {:g} pixels. Only
pictures that the damage changes count; kinds other than noise, blur, cut off and overlap are dealt to all. Intervals
are Wilson's at 95 %; they take attributes as independent, so they are somewhat narrow.

"""
# What is dealt to a share of the pictures is dealt to all; noise and blur stay where people can still read.
STRENGTHS = {"noise": (0.16, 0.32), "blur": (0.15, 0.3), "cut off": (0.5, 1.0), "overlap": (0.5, 1.0)}
CONDITIONS = [(kind, s) for kind in corruptions.CORRUPTIONS for s in STRENGTHS.get(kind, (1.0,))]
NAMES = ("corruption", "strength", "figures", "missed", "invented", "attributes", "hidden")
SHARES = {"agreement %": (2, 3), "oracle right %": (3, 4), "classifier right %": (2, 4)}  # columns of readings
STEPS = 3500
_NEAR = 5.0  # pixels at most between a true figure and what the oracle takes for it; sitting moves it by 3.5


def match(truth: Drawing, seen: Parse) -> np.ndarray:
    """Which of the oracle's figures stands for each true one, i[b, c]; -1 where none is near."""
    apart = np.linalg.norm(truth.places[:, :, None] - seen.drawing.places[:, None], axis=-1)
    costs = np.where(truth.present[:, :, None] & seen.drawing.present[:, None], np.minimum(apart, _NEAR), _NEAR)
    found = np.full(truth.poses.shape, -1)
    for row, cost in enumerate(costs):
        own, other = linear_sum_assignment(cost)
        found[row, own] = np.where(cost[own, other] < _NEAR, other, -1)
    return found


class Comparison(NamedTuple):
    """`readings` i[n, 5]: row, attribute, and its value by classifier, oracle and truth, where the oracle sees it.

    `counts` i[4]: matched figures; left out: true ones missed, ones invented, attributes hidden of matched ones.
    """

    readings: np.ndarray
    counts: np.ndarray


def compare(values: np.ndarray, truth: Drawing, seen: Parse) -> Comparison:
    """Values i[b, c, 7] read of the true figures, beside what the oracle sees of those that it finds."""
    found = match(truth, seen)
    slots, matched = np.maximum(found, 0)[..., None], (found >= 0).sum()
    visible = np.take_along_axis(seen.visible, slots, 1) & (found >= 0)[..., None]
    rows, _, attributes = np.nonzero(visible)
    by_all = (values, np.take_along_axis(seen.drawing.identities, slots, 1), truth.identities)
    missed, invented = truth.present.sum() - matched, seen.drawing.present.sum() - matched
    counts = np.array([matched, missed, invented, matched * visible.shape[-1] - len(rows)])
    return Comparison(np.stack([rows, attributes, *(v[visible] for v in by_all)], 1), counts)


def evaluate(scenes: int, seed: int, reader) -> dict[tuple[str, float], Comparison]:
    """By condition, `reader(pictures, truth)` beside the oracle on the tune scenes whose pictures are changed."""
    _, drawing = drawings("tune", range(scenes), seed)
    clean, comparisons = render(drawing), {}
    for kind, strength in tqdm(CONDITIONS, "comparing", unit="condition", delay=5):
        pictures = corruptions.corrupt(drawing, kind, strength, seed)
        rows = np.flatnonzero((pictures != clean).any((1, 2, 3)))
        if len(rows):
            truth = corruptions.damage(drawing, kind, strength, seed)[rows]
            one = compare(reader(pictures[rows], truth), truth, parse(pictures[rows]))
            one.readings[:, 0] = rows[one.readings[:, 0]]
            comparisons[kind, strength] = one
    return comparisons


def shares(readings: np.ndarray) -> list[str]:
    """Agreement, and how often the oracle and the classifier are right, in %, with 95 % intervals."""
    if not len(readings):
        return ["–"] * len(SHARES)
    same = (int((readings[:, one] == readings[:, other]).sum()) for one, other in SHARES.values())
    return ["{:.1f} ({:.1f}–{:.1f})".format(*(100 * x for x in wilson(count, len(readings)))) for count in same]


def report(comparisons: dict[tuple[str, float], Comparison]) -> str:
    """Tables by condition and by attribute, and examples of what only the oracle gets wrong."""
    readings = np.concatenate([c.readings for c in comparisons.values()])
    everything = Comparison(readings, sum(c.counts for c in comparisons.values()))
    rows = []
    for (kind, strength), (some, counts) in [*comparisons.items(), (("**all**", ""), everything)]:
        rows.append([kind, str(strength), *counts[:3], len(some), counts[3], *shares(some)])
    attributes = [[name, *shares(readings[readings[:, 1] == i])] for i, name in enumerate(ATTRIBUTES)]
    lines = [table([*NAMES, *SHARES], rows), "", table(["attribute", *SHARES], attributes)]
    lines += ["", "What the oracle gets wrong and the classifier right, and the first three of each kind:", ""]
    for (kind, strength), (some, _) in comparisons.items():
        wrong = some[(some[:, 3] != some[:, 4]) & (some[:, 2] == some[:, 4])]
        told = [f"{len(wrong)} of {len(some)}"]
        for row, i, _, seen, true in wrong[:3]:
            name, values = list(ATTRIBUTES.items())[i]
            told.append(f"scene {row}, {name}: {values[seen]}, truly {values[true]}")
        lines.append(f"- {kind} {strength:g}: {'; '.join(told)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Train, compare, print the report and write it; returns the exit code."""
    parser = Parser(description=__doc__.splitlines()[0])
    for name, default in (("steps", STEPS), ("scenes", 500), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the page (default docs)")
    return run(_write, parser, arguments)


def _write(options):
    for name, minimum in (("steps", 1), ("scenes", 1), ("seed", 0)):
        check_count(name, getattr(options, name), minimum)
    check_folder(options.out)
    began = time.perf_counter()
    network, _ = train(options.steps, options.seed)
    trained = time.perf_counter() - began
    body = report(evaluate(options.scenes, options.seed, partial(read, network)))
    command = "narrative_jax.study.attribute_classifier"
    flags = f"--steps {options.steps} --scenes {options.scenes} --seed {options.seed}"
    about = provenance(f"{command} {flags}", time.perf_counter() - began, ("jax", "flax", "optax", "numpy"))
    text = HEADER.format(about.rstrip(), trained, _NEAR) + body + "\n"
    (options.out / "attribute_classifier.md").write_text(text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
