"""Does a classifier that learned from renders alone read attributes as the oracle does? Writes a table.

The classifier is told where a figure stands, by the true (damaged) drawing, and reads the window round it. A place
says nothing of attributes, and nothing of the oracle's enters: neither its places nor its readings. The oracle's
figures are then matched to the true ones by place, and what both read is compared.
"""

import argparse
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from narrative_jax.core.errors import InputError, check_count
from narrative_jax.statistics import wilson
from narrative_jax.storybook import corruptions
from narrative_jax.storybook.figure import ANCHOR_X, ANCHOR_Y
from narrative_jax.storybook.parse import Parse, parse
from narrative_jax.storybook.render import Drawing, empty_drawing, render
from narrative_jax.storybook.scenes import drawings
from narrative_jax.storybook.sets import SIZE
from narrative_jax.storybook.world import (
    ATTRIBUTE_NAMES,
    ATTRIBUTES,
    LOCATIONS,
    NUM_VALUES,
    POSES,
    STYLES,
    split_identities,
)

# What is dealt to a share of the pictures is dealt to all; noise and blur stay where people can still read.
STRENGTHS = {"noise": (0.1, 0.2), "blur": (0.1, 0.2), "cut off": (0.5, 1.0), "overlap": (0.5, 1.0)}
NAMES = ("corruption", "strength", "figures", "missed", "invented", "attributes", "hidden")
SHARES = {"agreement %": (2, 3), "oracle right %": (3, 4), "classifier right %": (2, 4)}  # columns of readings
CONDITIONS = [(kind, s) for kind in corruptions.CORRUPTIONS for s in STRENGTHS.get(kind, (1.0,))]
HEADER = """# Attributes by an independent classifier

`python -m narrative_jax.study.attribute_classifier {command}`; {versions}; {seconds}; 2 cores AMD EPYC.

A small CNN, trained on pictures of the train split's people alone (placed at random, also cut off or covered, with
blur up to 0.9 pixels and noise up to 0.25), is told where each true figure of damaged tune-split pictures stands and
reads its attributes. Compared are those that the oracle calls visible, on the figure that it finds within 5 pixels.
Counted are only pictures that the damage changes; other kinds than noise, blur, cut off and overlap are dealt to all.
Intervals are Wilson's at 95 % and take attributes as independent, so they are somewhat too narrow.

"""
STEPS = 2500
BATCH = 96  # pictures a step, of two characters mostly
_HEIGHT, _WIDTH = 32, 24  # the window that is read, round a figure's own 30 × 22
_NEAR = 5.0  # pixels at most between a true figure and what the oracle takes for it; sitting moves it by 3.5
_FAR = -99.0  # where those stand who are not there
_VALUE_STARTS = np.cumsum((0, *NUM_VALUES))

# Reads values i[b, c, 7] off pictures f32[b, 40, 40, 3] for figures at f32[b, c, 2].
Reader = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Classifier(nnx.Module):
    """Scores f32[n, 30] of all values of all attributes, from windows f32[n, 32, 24, 4] and neighbours f32[n, 2]."""

    def __init__(self, rngs: nnx.Rngs):
        widths = (4, 32, 64, 128)
        self.convs = nnx.List(
            nnx.Conv(n, m, (3, 3), strides=2, rngs=rngs) for n, m in zip(widths[:-1], widths[1:], strict=True)
        )
        self.hidden = nnx.Linear(_HEIGHT * _WIDTH // 64 * widths[-1] + 2, 256, rngs=rngs)
        self.scores = nnx.Linear(256, sum(NUM_VALUES), rngs=rngs)

    def __call__(self, windows, neighbours):
        x = windows
        for conv in self.convs:
            x = nnx.relu(conv(x))
        x = jnp.concatenate([x.reshape(len(x), -1), neighbours], -1)
        return self.scores(nnx.relu(self.hidden(x)))


def look(pictures: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows f32[b · c, 32, 24, 4] round places f32[b, c, 2], and how far off the neighbour is, f32[b · c, 2]."""
    b, c = places.shape[:2]
    framed = np.concatenate([pictures, np.ones_like(pictures[..., :1])], -1)
    padded = np.pad(framed, ((0, 0), (SIZE, SIZE), (SIZE, SIZE), (0, 0)))
    corner = np.clip(np.round(places).astype(int), 0, SIZE) + SIZE - (ANCHOR_X + 1, ANCHOR_Y + 1)
    y, x = corner[..., 1, None] + np.arange(_HEIGHT), corner[..., 0, None] + np.arange(_WIDTH)
    windows = padded[np.arange(b)[:, None, None, None], y[..., None], x[..., None, :]]
    # Who stands lower is in front: without this nothing says which of two overlapping figures is meant.
    neighbours = np.clip((places[:, ::-1] - places) / (10, 2), -3, 3)
    return windows.reshape(b * c, _HEIGHT, _WIDTH, 4), np.float32(neighbours.reshape(b * c, 2))


def places_of(drawing: Drawing) -> np.ndarray:
    """Where the figures stand, f32[b, c, 2]; far off where there is none."""
    return np.where(drawing.present[..., None], drawing.places, np.float32(_FAR))


def practice(rng: np.random.Generator, size: int = BATCH) -> tuple[np.ndarray, Drawing]:
    """Pictures to learn from, blurred and noisy, with people of the train split anywhere, also cut off or covered."""
    drawing = empty_drawing(size, 2)
    drawing.identities[:] = np.stack(np.unravel_index(rng.choice(split_identities("train"), (size, 2)), NUM_VALUES), -1)
    drawing.poses[:] = rng.integers(len(POSES), size=(size, 2))
    x = rng.uniform(-2, SIZE + 2, (size, 2))
    close = rng.random(size) < 0.4
    x[close, 1] = np.clip(x[close, 0] + rng.uniform(-12, 12, close.sum()), -2, SIZE + 2)
    drawing.places[:] = np.stack([x, np.sort(rng.uniform(34.5, 38, (size, 2)), 1)], -1)
    drawing.parts[:] = rng.random(drawing.parts.shape) < 0.95
    drawing.parts[rng.random(size) < 0.2, 0] = False
    drawing.locations[:], drawing.styles[:] = rng.integers(((len(LOCATIONS),), (len(STYLES),)), size=(2, size))
    pictures = corruptions.corrupt(drawing, "blur", rng.uniform(0, 0.3))
    noise = rng.uniform(0, 0.25, (size, 1, 1, 1)) * rng.standard_normal(pictures.shape, np.float32)
    return np.clip(pictures + np.float32(noise), -1, 1), drawing


@nnx.jit
def _step(network, optimizer, windows, neighbours, values, present):
    def loss(network):
        scores = network(windows, neighbours)
        wrong = sum(
            optax.softmax_cross_entropy_with_integer_labels(scores[:, start : start + count], values[:, i])
            for i, (start, count) in enumerate(zip(_VALUE_STARTS, NUM_VALUES, strict=False))
        )
        return (wrong * present).sum() / present.sum() / len(NUM_VALUES)

    value, grads = nnx.value_and_grad(loss)(network)
    optimizer.update(network, grads)
    return value


def train(steps: int, seed: int = 0, draw=practice) -> tuple[Classifier, list[float]]:
    """A classifier after so many batches of `draw`, and its loss at each."""
    rng, network = np.random.default_rng(seed), Classifier(nnx.Rngs(seed))
    rate = optax.warmup_cosine_decay_schedule(0, 2e-3, steps // 20, steps)
    optimizer = nnx.Optimizer(network, optax.adamw(rate, weight_decay=1e-3), wrt=nnx.Param)
    losses = []
    progress = tqdm(range(steps), "training", unit="step", delay=5)
    for _ in progress:
        pictures, drawing = draw(rng)
        values, present = drawing.identities.reshape(-1, len(NUM_VALUES)), drawing.present.ravel()
        losses.append(float(_step(network, optimizer, *look(pictures, places_of(drawing)), values, present)))
        progress.set_postfix(loss=f"{np.mean(losses[-100:]):.3f}", refresh=False)
    return network, losses


def reader(network: Classifier) -> Reader:
    """What the classifier takes the attributes to be."""
    scores_of = nnx.jit(lambda network, *seen: network(*seen))

    def read(pictures, places):
        scores = np.split(np.asarray(scores_of(network, *look(pictures, places))), _VALUE_STARTS[1:-1], axis=1)
        return np.stack([s.argmax(-1) for s in scores], -1).reshape(*places.shape[:2], -1)

    return read


def damage(drawing: Drawing, kind: str, strength: float, seed: int) -> tuple[np.ndarray, Drawing, np.ndarray]:
    """The pictures that a kind of damage changes, what they show in truth, and which rows of `drawing` they are."""
    rendered = []
    # `corrupt` keeps to itself what it made of the drawing: listen to what it has rendered.
    with patch.object(corruptions, "render", lambda truth: rendered.append(truth) or render(truth)):
        pictures = corruptions.corrupt(drawing, kind, strength, seed)
    rows = np.flatnonzero((pictures != render(drawing)).any((1, 2, 3)))
    return pictures[rows], rendered[-1][rows], rows


def match(truth: Drawing, seen: Parse) -> np.ndarray:
    """Which of the oracle's figures stands for each true one, i[b, c]; -1 where none is near."""
    apart = np.linalg.norm(truth.places[:, :, None] - seen.drawing.places[:, None], axis=-1)
    both = truth.present[:, :, None] & seen.drawing.present[:, None]
    costs = np.where(both, np.minimum(apart, _NEAR), _NEAR)
    found = np.full(truth.poses.shape, -1)
    for row, cost in enumerate(costs):
        own, other = linear_sum_assignment(cost)
        found[row, own] = np.where(cost[own, other] < _NEAR, other, -1)
    return found


class Comparison(NamedTuple):
    """`readings` i[n, 5]: row, attribute, and its value by classifier, oracle and truth, where the oracle sees it.

    `counts` i[4]: matched figures; `missed` true ones near which the oracle finds none, and `invented` ones, both
    left out; attributes of matched figures that it calls `hidden`, by the frame or another figure, left out too.
    """

    readings: np.ndarray
    counts: np.ndarray

    def shares(self, attribute: int | None = None) -> list[str]:
        """Agreement, the oracle's and the classifier's accuracy in %, with 95 % intervals; of one attribute or all."""
        chosen = self.readings if attribute is None else self.readings[self.readings[:, 1] == attribute]
        same = [int((chosen[:, one] == chosen[:, other]).sum()) for one, other in SHARES.values()]
        intervals = [[100 * x for x in wilson(count, len(chosen))] if len(chosen) else [np.nan] * 3 for count in same]
        return ["{:.1f} ({:.1f}–{:.1f})".format(*interval) for interval in intervals]


def compare(pictures: np.ndarray, truth: Drawing, seen: Parse, read: Reader) -> Comparison:
    """What the classifier reads and what the oracle sees, where the oracle says that it can see."""
    found = match(truth, seen)
    slots, matched = np.maximum(found, 0)[..., None], found >= 0
    visible = np.take_along_axis(seen.visible, slots, 1) & matched[..., None]
    values = (read(pictures, places_of(truth)), np.take_along_axis(seen.drawing.identities, slots, 1), truth.identities)
    rows, _, attributes = np.nonzero(visible)
    count, there, invented = matched.sum(), truth.present.sum(), seen.drawing.present.sum() - matched.sum()
    counts = [count, there - count, invented, count * len(NUM_VALUES) - len(rows)]
    return Comparison(np.stack([rows, attributes, *(v[visible] for v in values)], 1), np.array(counts))


def evaluate(scenes: int, seed: int, read: Reader) -> dict[tuple[str, float], Comparison]:
    """The comparison under each condition, over the scenes of the tune split whose pictures it changes."""
    _, drawing = drawings("tune", range(scenes), seed)
    comparisons = {}
    for kind, strength in tqdm(CONDITIONS, "comparing", unit="condition", delay=5):
        pictures, truth, rows = damage(drawing, kind, strength, seed)
        if len(rows):
            comparisons[kind, strength] = compared = compare(pictures, truth, parse(pictures), read)
            compared.readings[:, 0] = rows[compared.readings[:, 0]]
    return comparisons


def report(comparisons: dict[tuple[str, float], Comparison]) -> str:
    """Tables by condition and by attribute, and examples of what only the oracle gets wrong."""
    everything = Comparison(*(f(c) for f, c in zip((np.concatenate, sum), zip(*comparisons.values()), strict=True)))
    rows = [NAMES + tuple(SHARES), ["---"] * (len(NAMES) + len(SHARES))]
    for (kind, strength), c in [*comparisons.items(), (("**all**", ""), everything)]:
        rows.append([kind, strength, *c.counts[:3], len(c.readings), c.counts[3], *c.shares()])
    rows += [[], ["attribute", *SHARES], ["---"] * 4]
    rows += [[name, *everything.shares(i)] for i, name in enumerate(ATTRIBUTE_NAMES)]
    lines = [f"| {' | '.join(map(str, row))} |" if row else "" for row in rows]
    lines += ["", "What the oracle gets wrong and the classifier right, with the first three of each kind:", ""]
    for (kind, strength), c in comparisons.items():
        wrong = c.readings[(c.readings[:, 3] != c.readings[:, 4]) & (c.readings[:, 2] == c.readings[:, 4])]
        told = [
            f"scene {row} {name} {ATTRIBUTES[name][seen]}, true {ATTRIBUTES[name][true]}"
            for row, name, seen, true in ((r[0], ATTRIBUTE_NAMES[r[1]], r[3], r[4]) for r in wrong[:3])
        ]
        lines.append(f"- {kind} {strength:g}: {len(wrong)} of {len(c.readings)}" + "".join(f"; {t}" for t in told))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Train, compare, print the report and write it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps (default {STEPS})")
    parser.add_argument("--scenes", type=int, default=500, help="scenes of the tune split (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of training, scenes and damage (default 0)")
    parser.add_argument("--out", type=Path, default=Path("docs/attribute_classifier.md"), help="where to write")
    options = parser.parse_args(arguments)
    try:
        check_count("steps", options.steps, minimum=1)
        check_count("scenes", options.scenes, minimum=1)
        check_count("seed", options.seed)
        if options.out.is_dir() or not options.out.parent.is_dir():
            raise InputError(f"out {options.out}", "out is a file in a folder that exists", "name such a file")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    start = time.perf_counter()
    network, _ = train(options.steps, options.seed)
    trained = time.perf_counter()
    body = report(evaluate(options.scenes, options.seed, reader(network)))
    command = f"--steps {options.steps} --scenes {options.scenes} --seed {options.seed}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax", "numpy"))
    seconds = f"{trained - start:.0f} s training, {time.perf_counter() - trained:.0f} s comparing"
    text = HEADER.format(command=command, versions=versions, seconds=seconds) + body + "\n"
    print(text)
    options.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
