"""How the oracle scores pictures that nobody drew: `python -m narrative_jax.study.adversaries`."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from narrative_jax.core.command import Parser, run
from narrative_jax.core.errors import check_count
from narrative_jax.core.markdown import table
from narrative_jax.statistics import Interval, paired_bootstrap
from narrative_jax.storybook.datasets import drawings
from narrative_jax.storybook.oracle import CRITERIA, MEASURES, STRANGER, judge
from narrative_jax.storybook.render import Drawing, render
from narrative_jax.storybook.sets import SIZE
from narrative_jax.storybook.world import WORLD, Facts, identity_codes
from narrative_jax.study.command import check_folder, provenance
from narrative_jax.study.corruption_matrix import aspects

BARS = {"grey": 0.15, "mean picture": 0.15, "gaussian noise": 0.15, "uniform noise": 0.15, "half-blend": 0.35}
QUALITY = MEASURES.index("visual_quality")
OTHERS = 512  # true pictures judged against another scene
NEAR = 0.005  # an interval is near chance if it comes this close: true pictures miss a perfect score by less
BATCH = 32  # proposals judged together, of which a climb takes the best
AIMS = {"attributes": [CRITERIA.index("attributes")], "all nine": list(range(len(CRITERIA)))}
_FIELD, _PATCH = 8, 8


def families(facts: Sequence[Facts], drawing: Drawing, seed: int = 0) -> dict[str, np.ndarray]:
    """Pictures f32[b, 40, 40, 3] of each kind that nobody drew, one for each scene; the greys from black to white."""
    rng, true, nobody = np.random.default_rng(seed), render(drawing), drawing.copy()
    nobody.parts[:] = False
    grey = np.linspace(-1, 1, len(facts), dtype=np.float32)[:, None, None, None]
    return {
        "grey": np.broadcast_to(grey, true.shape),
        "mean picture": np.broadcast_to(render(drawings("train", range(500), seed)[1]).mean(0), true.shape),
        "gaussian noise": np.clip(0.5 * rng.standard_normal(true.shape, np.float32), -1, 1),
        "uniform noise": rng.uniform(-1, 1, true.shape).astype(np.float32),
        "half-blend": 0.5 * true + 0.5 * np.roll(true, 1, axis=0),
        "empty stage": render(nobody),
        "shuffled patches": _shuffle(true, rng),
    }


def _shuffle(pictures, rng):
    cut = pictures.reshape(-1, SIZE // _PATCH, _PATCH, SIZE // _PATCH, _PATCH, 3).swapaxes(2, 3)
    mixed = [rng.permutation(patches) for patches in cut.reshape(len(cut), -1, _PATCH, _PATCH, 3)]
    return np.reshape(mixed, cut.shape).swapaxes(2, 3).reshape(pictures.shape)


def chance(split: str, pairs: int = 4000, seed: int = 1) -> np.ndarray:
    """Expected measures f64[12] of a flawless picture of one scene judged by another's facts, from facts alone."""
    drawn = [WORLD.facts(split, seed, index) for index in range(2 * pairs)]
    return np.mean([_as_asked(shown, asked) for shown, asked in zip(drawn[::2], drawn[1::2], strict=True)], axis=0)


def _as_asked(shown, asked):
    """The measures of what one scene's facts say where another's are asked for; nobody stands as in a portrait."""
    seen, wanted = ([identity_codes(c.attributes) for c in facts.characters] for facts in (shown, asked))
    same = np.array([[(own == other).mean() for other in seen] for own in wanted])
    pairs = list(zip(*linear_sum_assignment(same, maximize=True), strict=True))
    actions = [asked.characters[w].action == shown.characters[s].action for w, s in pairs]
    leaks = [any(((other != wanted[w]) & (other == seen[s])).any() for other in wanted) for w, s in pairs]
    own = np.array([min(1, same[pair] / STRANGER) for pair in pairs])
    identity = np.array([[same[pair] for pair in pairs], own * ~np.array(leaks), own])
    count = min(same.shape) / max(same.shape)
    setting = ((shown.location == asked.location) + (shown.style == asked.style)) / 2
    prompt = (count, np.mean(actions), setting)
    return *prompt, *identity.mean(1), 1, 1, 1, np.mean(prompt), np.cbrt(identity.prod(0)).sum() / len(wanted), 1


def beyond_chance(split: str, pairs: int = OTHERS, seed: int = 0) -> dict[str, tuple[float, Interval]]:
    """Chance, and how far true pictures judged by the next scene's facts are from it, by criterion and aspect."""
    facts, drawing = drawings(split, range(pairs), seed)
    scores, expected = judge(render(drawing), facts[1:] + facts[:1]).measures, chance(split, seed=seed + 1)
    rows = zip(MEASURES, scores.T, expected, strict=True)
    return {name: (at, paired_bootstrap(own, np.full(pairs, at), seed=seed)) for name, own, at in rows}


class Climb(NamedTuple):
    """A picture climbed towards a higher score: `scores` f64[batch + 1] after each batch, measures f32[12] at both."""

    start: np.ndarray
    end: np.ndarray
    before: np.ndarray
    after: np.ndarray
    scores: np.ndarray


def rectangles(picture: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Proposals f32[32, 40, 40, 3]: in each a random rectangle is recoloured, or noise is added to it."""
    proposals = np.repeat(picture[None], BATCH, axis=0)
    for proposal in proposals:
        h, w = rng.integers(1, 1 + SIZE // 2, 2)
        y, x = rng.integers(SIZE - h + 1), rng.integers(SIZE - w + 1)
        area = proposal[y : y + h, x : x + w]
        noise, recolouring = rng.standard_normal(area.shape), rng.uniform(-1, 1, 3) - area
        area += spread * noise if rng.random() < 0.5 else rng.random() * recolouring
    return np.clip(proposals, -1, 1)


def fields(picture: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Proposals f32[32, 40, 40, 3] of an evolution strategy: a random 8×8 field of colours is added to each."""
    field = spread * rng.standard_normal((BATCH, _FIELD, _FIELD, 3), np.float32)
    return np.clip(picture + field.repeat(SIZE // _FIELD, axis=1).repeat(SIZE // _FIELD, axis=2), -1, 1)


METHODS = {"rectangles": rectangles, "fields": fields}


def climb(start: np.ndarray, facts: Facts, aim: str, propose: Callable, steps: int, seed: int = 0) -> Climb:
    """Climb from f32[40, 40, 3] by `steps` proposals, 32 judged at a time; ties are taken, to drift over plateaus."""
    rng, spread, picture = np.random.default_rng(seed), 0.5, start
    before = after = judge(start[None], [facts]).measures[0]
    scores = [before[AIMS[aim]].sum(dtype=float)]
    for _ in range(-(-steps // BATCH)):
        measures = judge(proposals := propose(picture, spread, rng), [facts] * BATCH).measures
        values = measures[:, AIMS[aim]].sum(1, dtype=float)
        best, rise = values.argmax(), values.max() - scores[-1]
        spread = np.clip(spread * 1.2 ** np.sign(rise), 0.05, 1)
        if rise >= 0:
            picture, after = proposals[best], measures[best]
        scores.append(max(scores[-1], values[best]))
    return Climb(start, picture, before, after, np.array(scores))


def climbs(facts: Sequence[Facts], drawing: Drawing, steps: int, seed: int = 0) -> dict[tuple[str, str, str], Climb]:
    """Climbs towards the first of two scenes, by start (the last: the second one's picture), aim and method."""
    noise = np.random.default_rng(seed).uniform(-1, 1, (SIZE, SIZE, 3)).astype(np.float32)
    starts = {"noise": noise, "grey": np.zeros_like(noise), "another scene": render(drawing[1:])[0]}
    plans = tqdm([(start, aim, method) for start in starts for aim in AIMS for method in METHODS], delay=5)
    return {plan: climb(starts[plan[0]], facts[0], plan[1], METHODS[plan[2]], steps, seed) for plan in plans}


def report(scored: dict[str, np.ndarray], others: dict[str, tuple[float, Interval]], climbed: dict) -> str:
    """The tables in Markdown: criteria of each family, of true pictures against other scenes, and of the climbs."""
    lines = ["# How the oracle scores pictures that nobody drew\n", "Means; `P I Q` are the aspects."]
    rows = []
    for family, measures in scored.items():
        quality, bar = measures[:, QUALITY], BARS.get(family, 1.0)
        found = measures[:, CRITERIA.index("cleanness")] > 0
        rows.append([family, len(measures), found.sum(), *measures.mean(0), quality.max(), bar, (quality > bar).sum()])
    names = ("pictures", "n", "with a figure", *CRITERIA, "P", "I", "Q", "highest Q", "bar", "above it")
    lines += ["", table(names, rows)]
    lines.append(
        f"\n{OTHERS} true pictures judged by the next one's facts; chance: from pairs of independent facts alone."
    )
    names = ("", "mean", "chance", "difference", "95 % from", "to", f"comes within {NEAR} of 0")
    rows = [[name, by.estimate + at, at, *by, by.low <= NEAR and by.high >= -NEAR] for name, (at, by) in others.items()]
    lines += ["", table(names, rows)]
    lines.append("\nClimbs towards a scene of two. Fooled: cleanness < 0.2, yet attributes ≥ 0.5 or quality > 0.35.")
    rows = []
    for plan, one in climbed.items():
        seen = dict(zip(MEASURES, one.after, strict=True))
        fooled = seen["cleanness"] < 0.2 and (seen["attributes"] >= 0.5 or seen["visual_quality"] > 0.35)
        rows.append([*plan, *one.scores[[0, -1]], np.ptp(one.scores), *one.after, fooled])
    names = ("start", "raised", "by", "from", "to", "gain", *CRITERIA, "P", "I", "Q", "fooled")
    lines += ["", table(names, rows)]
    return "\n".join([*lines, "", ""])


def plot(families: dict[str, tuple], climbed: dict[tuple[str, str, str], Climb], target: tuple) -> Figure:
    """Above, one of each family (picture, measures); below, starts and ends of climbs beside the true target."""
    figure = Figure(figsize=(15, 13), dpi=100, layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 3))
    top.suptitle("Pictures that nobody drew: of each kind, the one of the highest quality", fontsize=15)
    bottom.suptitle("Climbed towards the scene on the left: what was raised, and by what proposals", fontsize=15)
    panels = [*top.subplots(1, len(families)), *bottom.subplots(3, 2 + len(climbed) // 3).flat]
    cells = list(families.items())
    for (start, aim, method), one in climbed.items():
        if (aim, method) == (next(iter(AIMS)), next(iter(METHODS))):
            cells += [("the scene\nas drawn", target), (f"start:\n{start}", (one.start, one.before))]
        cells.append((f"{aim}\nby {method}", (one.end, one.after)))
    for axes, (title, (picture, measures)) in zip(panels, cells, strict=True):
        axes.imshow(np.clip(picture / 2 + 0.5, 0, 1), interpolation="nearest")
        axes.set(xticks=[], yticks=[], title=title, xlabel="P {:.2f}  I {:.2f}  Q {:.2f}".format(*aspects(measures)))
    return figure


def main(arguments: list[str] | None = None) -> int:
    """Print and write the tables and the pictures; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=64, help="tune scenes (default 64)")
    parser.add_argument("--steps", type=int, default=2000, help="proposals of each climb (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, noise and climbs (default 0)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the page and picture (default docs)")
    return run(_write, parser, arguments)


def _write(options):
    check_count("scenes", options.scenes, minimum=2)
    check_count("steps", options.steps, minimum=1)
    check_folder(options.out)
    began = time.perf_counter()
    facts, drawing = drawings("tune", range(options.scenes), options.seed)
    pictures = families(facts, drawing, options.seed)
    scored = {name: judge(own, facts).measures for name, own in pictures.items()}
    two = (-drawing.present.sum(1)).argsort(kind="stable")[:2]
    climbed = climbs([facts[row] for row in two], drawing[two], options.steps, options.seed)
    page = report(scored, beyond_chance("tune", seed=options.seed), climbed)
    command = f"narrative_jax.study.adversaries --scenes {options.scenes} --steps {options.steps} --seed {options.seed}"
    page += provenance(command, time.perf_counter() - began)
    (options.out / "adversaries.md").write_text(page + "\n![the pictures](adversaries.png)\n")
    best = ((name, measures[:, QUALITY].argmax()) for name, measures in scored.items())
    examples = {name: (pictures[name][at], scored[name][at]) for name, at in best}
    target = climb(render(drawing[two[:1]])[0], facts[two[0]], "all nine", fields, steps=0)
    plot(examples, climbed, (target.end, target.after)).savefig(options.out / "adversaries.png")
    print(page)


if __name__ == "__main__":
    sys.exit(main())
