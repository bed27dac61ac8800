"""How training went, as SVG pictures that need no font, script or file of elsewhere."""

import json
import math
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from narrative_jax import statistics
from narrative_jax.algorithms.dpo import DPO
from narrative_jax.core.files import read_json
from narrative_jax.core.records import Preference
from narrative_jax.data.datasets import open_records
from narrative_jax.losses.preference import adaptive_beta
from narrative_jax.report.run import Run

COLOURS = BLUE, ORANGE, GREEN = "#3d85c8", "#d97f28", "#3c9a5f"  # legible on white and on black
LINES = (*COLOURS, "#9a5fc0", "#c04f6b", "#7a8a2f")
GREY = "#8a8a8a"
INK = "#010203"  # stands for the colour of the page's text
MOST_POINTS = 600  # of a line
# Keys of metrics.jsonl in one panel, with their labels; title; a value that means something.
PANELS = (
    ({"loss": ""}, "loss", None),
    ({"margin": ""}, "margin", 0.0),
    ({"implicit_accuracy": ""}, "implicit accuracy", 0.5),
    ({"chosen_error_rise": "chosen", "rejected_error_rise": "rejected"}, "error minus reference", 0.0),
)
WHICH = {"reward": "chose", "followed": "was followed", "gold": "chose nothing"}  # what judges by step
TERM = "reward/"  # begins the keys of what terms of a reward say of the pictures that follow it
# The page's text colour, also where a reader prefers dark pages.
STYLE = (
    "<style>svg{color:#333}text{font-family:system-ui,sans-serif!important}"
    "@media(prefers-color-scheme:dark){svg{color:#ccc}}</style>"
)


@dataclass(frozen=True)
class Panel:
    """One picture: a data URI, and what it shows for those who cannot see it."""

    title: str
    source: str
    alt: str


def panels(run: Run) -> Iterator[Panel]:
    """Those curves that the shown training entry recorded, and the β(a) of its pairs."""
    if not run.trained:
        return
    lines = (run.workdir / run.trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    terms = [key for key in (metrics[0] if metrics else ()) if key.startswith(TERM)]
    followed = [({key: ""}, f"{key.removeprefix(TERM)}, followed", None) for key in terms]
    for labels, title, level in (*PANELS, *followed):
        if metrics and labels.keys() <= metrics[0].keys():
            series = {label: [row[key] for row in metrics] for key, label in labels.items()}
            yield _lines(title, [row["step"] for row in metrics], series, level)
    if run.config[run.trained]["algorithm"] == "dpo":
        yield from _betas(run)


def by_step(run: Run) -> Iterator[Panel]:
    """What each reward said of the adapters that a training kept, less what it said before, with 95 % intervals.

    A reward that was followed rises long after pictures get worse: beside what chooses, gold shows where.
    """
    for entry in run.entries("choose"):
        found = read_json(run.workdir / entry / "results.json")
        steps = sorted(map(int, found["steps"]))
        for kind, aspects in found["columns"].items():
            values = {step: np.array(found["steps"][str(step)][kind])[:, -len(aspects) :] for step in steps}
            name = "gold" if kind == "gold" else aspects[0].replace("_", " ")
            yield _changes(f"{entry}: {name}, which {WHICH[kind]}", steps, values, aspects, found["chosen"])
    yield from _gained(run)


def smooth(values: np.ndarray) -> np.ndarray:
    """The mean f64[n] over a window of a twentieth of them, shorter at both ends."""
    window = np.ones(2 * (len(values) // 40) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _lines(title, steps, series, level):
    figure, axes = _axes("step")
    if level is not None:
        axes.axhline(level, color=GREY, linewidth=0.8, linestyle=":")
    stride = math.ceil(len(steps) / MOST_POINTS)
    ends = []
    for (label, values), colour in zip(series.items(), COLOURS, strict=False):
        smoothed = smooth(np.asarray(values))
        axes.plot(steps[::stride], values[::stride], color=colour, alpha=0.3, linewidth=0.7)
        axes.plot(steps[::stride], smoothed[::stride], color=colour, linewidth=1.7, label=label)
        ends.append(f"{label} from {smoothed[0]:.4g} to {smoothed[-1]:.4g}".strip())
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=INK)
    return Panel(title, _svg(figure), f"{title} over {len(steps)} steps, smoothed: {', '.join(ends)}")


def _changes(title, steps, values, aspects, chosen):
    """Lines with bands of the mean change from the first step, and a mark at the chosen one."""
    figure, axes = _axes("step")
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.axvline(chosen, color=GREY, linewidth=0.8)
    told = []
    for place, (aspect, colour) in enumerate(zip(aspects, COLOURS, strict=False)):
        first = values[steps[0]][:, place]
        found = [statistics.paired_bootstrap(values[step][:, place], first) for step in steps]
        means, lows, highs = np.transpose(found)
        axes.fill_between(steps, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axes.plot(steps, means, color=colour, linewidth=1.7, marker="o", markersize=3, label=aspect.replace("_", " "))
        told.append(f"{aspect.replace('_', ' ')} {means[steps.index(chosen)]:+.3f} there, {means[-1]:+.3f} at the end")
    if len(aspects) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return Panel(title, _svg(figure), f"{title}, by step; step {chosen} was chosen: {'; '.join(told)}")


def _gained(run):
    """Gold that is gained per reward gained by each training that was chosen from: where a line turns down, its reward
    was driven beyond what it knows. Each has its own reward; how far they rose cannot be compared.
    """
    lines = {}
    for entry in run.entries("choose"):
        found = read_json(run.workdir / entry / "results.json")
        if {"followed", "gold"} <= found["columns"].keys():
            steps = [found["steps"][step] for step in sorted(found["steps"], key=int)]
            followed = np.array([step["followed"] for step in steps]).mean(2)
            gold = np.array([step["gold"] for step in steps])[..., -len(found["columns"]["gold"]) :]
            rise = (followed.mean(1) - followed[0].mean()) / max(followed[0].std(), 1e-6)
            lines[entry] = rise, gold.mean((1, 2)) - gold[0].mean()
    if not lines:
        return
    figure, axes = _axes("rise of what each followed, in its deviations over scenes")
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    told = []
    for place, (entry, (rise, gold)) in enumerate(lines.items()):
        axes.plot(rise, gold, color=LINES[place % len(LINES)], linewidth=1.7, marker="o", markersize=3, label=entry)
        told.append(f"{entry} {gold[-1]:+.3f} of gold for {rise[-1]:+.2f}")
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))  # lines turn back
    title = "Gold, mean of aspects, by what was followed"
    yield Panel(title, _svg(figure), f"{title}, on tune scenes, a point a step that was kept: {'; '.join(told)}")


def _betas(run):
    """Where every pair has a gap."""
    algorithm = DPO(**run.config[run.trained].get("hyper", {}))
    preferences = open_records(run.workdir / run.config[run.trained]["source"] / "preferences", Preference)
    columns = preferences.columns("gap", "tie")
    gaps = [gap for gap, tie in zip(*columns.values(), strict=True) if not tie]
    if None in gaps:
        return
    gaps = np.array(gaps)
    values = np.asarray(
        adaptive_beta(gaps, beta=algorithm.beta, eta=algorithm.eta, k=algorithm.k, b=algorithm.b), np.float64
    )
    figure, axes = _axes("β(a)")
    axes.hist(values, bins=min(40, 4 + len(values) // 20), color=BLUE, alpha=0.8)
    axes.axvline(algorithm.beta, color=ORANGE, linewidth=1.2, label=f"β = {algorithm.beta:g}")
    axes.legend(frameon=False, labelcolor=INK)
    extent = f"from {values.min():.4g} to {values.max():.4g}, median {np.median(values):.4g}"
    yield Panel("β(a) of the kept pairs", _svg(figure), f"Histogram of β(a) of {len(values)} pairs, {extent}")


def _axes(xlabel):
    figure = Figure(figsize=(4.6, 2.3), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.patch.set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_xlabel(xlabel, color=INK, fontsize=9)
    return figure, axes


def _svg(figure):
    file = StringIO()
    # Text stays text, and nothing in the file depends on when or where it was made.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    head, tag, body = file.getvalue().partition("<defs>")
    svg = head + STYLE + tag + body.replace(INK, "currentColor")
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
