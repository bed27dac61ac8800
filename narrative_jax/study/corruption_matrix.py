"""What each corruption does to each criterion of the oracle: `python -m narrative_jax.study.corruption_matrix`."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tqdm import tqdm

from narrative_jax.core.command import Parser, run
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.markdown import table
from narrative_jax.storybook.corruptions import CORRUPTIONS, MAY_MOVE, can_corrupt, corrupt
from narrative_jax.storybook.datasets import drawings
from narrative_jax.storybook.oracle import ASPECTS, CRITERIA, MEASURES, judge
from narrative_jax.storybook.render import Drawing, render
from narrative_jax.storybook.world import Facts
from narrative_jax.study.command import check_folder, provenance

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
EVERYTHING = tuple(kind for kind in CORRUPTIONS if MAY_MOVE[kind] == CRITERIA)
NOISE = 0.005  # a criterion may rise by this much from one strength to the next
NOTABLE = 0.02  # spill is judged where what may move falls by this much
SPILL = 0.20  # share of that fall by which all else may change
TRUE_BAR = 0.97  # of each aspect's mean over true pictures


@dataclass(frozen=True)
class Effect:
    """One corruption: `changes` f64[strength, 12] of the measures are means over `scenes` pictures."""

    scenes: int
    changes: np.ndarray


@dataclass(frozen=True)
class Matrix:
    """Effects by corruption at `strengths`; `truth` f64[12] are the measures' means over the true pictures."""

    strengths: Sequence[float]
    truth: np.ndarray
    effects: dict[str, Effect]
    pictures_per_second: float


def aspects(measures: np.ndarray) -> np.ndarray:
    """The aspects among the measures, f[..., 12] -> f[..., 3]."""
    return measures[..., len(CRITERIA) :]


def measure(facts: Sequence[Facts], drawing: Drawing, strengths: Sequence[float] = STRENGTHS, seed: int = 0) -> Matrix:
    """Judge true and corrupted pictures of the same scenes. Raises InputError."""
    began = time.process_time()
    truth, effects = judge(render(drawing), facts).measures.astype(float), {}
    judged, seconds = len(facts), time.process_time() - began
    for kind in tqdm(CORRUPTIONS, delay=5):
        rows = np.flatnonzero(can_corrupt(drawing, kind))
        if not len(rows):
            raise InputError(f"{len(facts)} scenes", f"none can have the corruption {kind!r}", "ask for more scenes")
        asked, changes = [facts[row] for row in rows], []
        for strength in strengths:
            pictures, began = corrupt(drawing[rows], kind, strength, seed), time.process_time()
            changes.append((judge(pictures, asked).measures - truth[rows]).mean(0))
            judged, seconds = judged + len(rows), seconds + time.process_time() - began
        effects[kind] = Effect(len(rows), np.array(changes))
    return Matrix(tuple(strengths), truth.mean(0), effects, judged / seconds)


def spill(matrix: Matrix, kind: str) -> np.ndarray:
    """Mean |change| of criteria that may not move over the mean fall of those that may, f64[strength].

    NaN where nothing may not move, or what may hardly fell.
    """
    changes, listed = matrix.effects[kind].changes[:, : len(CRITERIA)], np.isin(CRITERIA, MAY_MOVE[kind])
    fall = -changes[:, listed].mean(1)
    if listed.all():
        return np.full(len(fall), np.nan)
    return np.where(fall >= NOTABLE, np.abs(changes[:, ~listed]).mean(1) / np.maximum(fall, NOTABLE), np.nan)


def failures(matrix: Matrix, kind: str) -> list[tuple[float, str]]:
    """(strength, what is wrong) for every check that one corruption fails."""
    effect, listed, found = matrix.effects[kind], np.isin(MEASURES, MAY_MOVE[kind]), []
    steps = np.diff(effect.changes, axis=0, prepend=0.0)
    for row, strength in enumerate(matrix.strengths):
        for i in np.flatnonzero(listed & (steps[row] > NOISE)):
            found.append((strength, f"{MEASURES[i]} rises by {steps[row, i]:.3f}"))
        if spill(matrix, kind)[row] > SPILL:
            found.append((strength, f"spills {spill(matrix, kind)[row]:.1%}"))
    for i in np.flatnonzero(listed & (effect.changes[-1] > -NOISE)):
        found.append((matrix.strengths[-1], f"{MEASURES[i]} does not fall"))
    first = list(ASPECTS)[aspects(effect.changes[0]).argmin()]
    if kind in EVERYTHING and first != "visual_quality":
        found.append((matrix.strengths[0], f"{first} falls first"))
    return found


def report(matrix: Matrix, scenes: int) -> str:
    """The tables in Markdown."""
    lines = [
        "# What each corruption does to the oracle's criteria\n",
        f"{scenes} true pictures of tune scenes, characters at sub-pixel places. Aspect means (bar ≥ {TRUE_BAR}): "
        + ", ".join(f"{name} **{value:.4f}**" for name, value in zip(ASPECTS, aspects(matrix.truth), strict=True))
        + f": {'pass' if (aspects(matrix.truth) >= TRUE_BAR).all() else '**FAIL**'}.",
        "",
        "Cells: mean change of a criterion against the true pictures of the same scenes, · below 0.0005; bold: it may "
        "move. `P I Q` are the aspects prompt following, identity consistency and visual quality. Checks:",
        "",
        f"- what may move falls with strength, from no damage on (rises up to {NOISE} are taken for noise), "
        f"and has fallen by more than {NOISE} at full strength;",
        f"- spill, the mean over all other criteria of their |mean change|, over the mean fall of what may move, "
        f"is ≤ {SPILL:.0%} wherever that fall is ≥ {NOTABLE}; *most* is the criterion that spills most, in the mean;",
        f"- {' and '.join(EVERYTHING)} lower all nine, and at the smallest strength quality the most of the aspects.",
        "",
    ]
    header, rows = ["corruption (scenes)", "strength", *CRITERIA, "P I Q", "spill", "most", "check"], []
    for kind, effect in matrix.effects.items():
        listed, wrong = np.isin(CRITERIA, MAY_MOVE[kind]), failures(matrix, kind)
        for row, strength in enumerate(matrix.strengths):
            name = f"{kind} ({effect.scenes})" if row == 0 else ""
            change = effect.changes[row, : len(CRITERIA)]
            cells = [f"**{_signed(c, 3)}**" if own else _signed(c, 3) for c, own in zip(change, listed, strict=True)]
            means = " ".join(_signed(c, 2) for c in aspects(effect.changes[row]))
            share = spill(matrix, kind)[row]
            worst = np.where(listed, 0, np.abs(change)).argmax()
            spilt = (
                ("–", "–") if np.isnan(share) else (f"{share:.1%}", f"{CRITERIA[worst]} {_signed(change[worst], 3)}")
            )
            verdict = "; ".join(text for at, text in wrong if at == strength)
            passed = f"**FAIL**: {verdict}" if verdict else "pass"
            rows.append([name, f"{strength:g}", *cells, means, *spilt, passed])
    lines += [
        table(header, rows),
        "",
        f"Judged {matrix.pictures_per_second:.0f} pictures per second of processor time (one core).",
        "",
    ]
    return "\n".join(lines)


def _signed(change, digits):
    return f"{change:+.{digits}f}" if abs(change) >= 0.5 / 10**digits else "·"


def plot(matrix: Matrix, drawing: Drawing, seed: int) -> Figure:
    """True and damaged examples beside the changes at full strength, one corruption a row."""
    count, spread = len(CORRUPTIONS), np.arange(9) + 0.25 * (np.arange(9) // 3)
    figure = Figure(figsize=(15.5, count + 1.3), dpi=100)
    axes = figure.add_axes((0.295, 0.01, 0.70, 0.92), xlim=(-0.5, spread[-1] + 0.5), ylim=(count - 0.5, -0.5))
    colours = matplotlib.colormaps["RdBu"]
    for row, (kind, effect) in enumerate(matrix.effects.items()):
        for x, name, change in zip(spread, CRITERIA, effect.changes[-1, : len(CRITERIA)], strict=True):
            own, paint = name in MAY_MOVE[kind], colours((change + 1) / 2)
            axes.add_patch(Rectangle((x - 0.47, row - 0.46), 0.94, 0.92, fc=paint, ec="0.15", lw=2.0 * own))
            ink, weight = "white" if abs(change) > 0.6 else "0.1", "bold" if own else "normal"
            axes.text(x, row, _signed(change, 2), ha="center", va="center", color=ink, weight=weight, fontsize=13)
    for aspect, centre in zip(ASPECTS, spread[1::3], strict=True):
        axes.text(centre, -0.85, aspect.replace("_", " "), ha="center", fontsize=15, weight="bold")
    axes.set_xticks(spread, [name.replace("_", " ") for name in CRITERIA], fontsize=11.5)
    axes.set_yticks(range(count), CORRUPTIONS, fontsize=14)

    gallery = figure.add_axes((0.005, 0.01, 0.165, 0.92))
    shared = np.flatnonzero(np.all([can_corrupt(drawing, kind) for kind in CORRUPTIONS], axis=0))
    shared = shared[drawing.styles[shared].argsort(kind="stable")]  # the first style, gouache, shows damage best
    for row, kind in enumerate(CORRUPTIONS if len(shared) else ()):
        one = drawing[shared[[row % len(shared)]]]
        for x, picture in enumerate((render(one), corrupt(one, kind, 1.0, seed))):
            extent = (x - 0.47, x + 0.47, row + 0.46, row - 0.46)
            gallery.imshow(np.clip(picture[0] / 2 + 0.5, 0, 1), interpolation="nearest", extent=extent)
    gallery.set(xlim=(-0.5, 1.5), ylim=(count - 0.5, -0.5), aspect="auto", yticks=[])
    gallery.set_xticks((0, 1), ("true", "damaged"), fontsize=12)
    for each in (axes, gallery):
        each.tick_params(length=0, labeltop=True, labelbottom=False)
        each.spines[:].set_visible(False)
    title = "Mean change at full strength; framed: may move, ·: less than 0.005"
    figure.text(0.645, 0.985, title, ha="center", fontsize=15)
    return figure


def main(arguments: list[str] | None = None) -> int:
    """Print and write the tables and the picture; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=500, help="tune scenes (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of scenes and corruptions (default 0)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the page and picture (default docs)")
    return run(_write, parser, arguments)


def _write(options):
    check_count("scenes", options.scenes, minimum=1)
    check_folder(options.out)
    began = time.perf_counter()
    facts, drawing = drawings("tune", range(options.scenes), options.seed)
    matrix = measure(facts, drawing, seed=options.seed)
    command = f"narrative_jax.study.corruption_matrix --scenes {options.scenes} --seed {options.seed}"
    page = report(matrix, options.scenes) + "\n" + provenance(command, time.perf_counter() - began)
    (options.out / "corruption_matrix.md").write_text(page + "\n![examples and changes](corruption_matrix.png)\n")
    plot(matrix, drawing, options.seed).savefig(options.out / "corruption_matrix.png")
    print(page)


if __name__ == "__main__":
    sys.exit(main())
