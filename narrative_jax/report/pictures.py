"""Pictures of a run side by side: subjects, caption, baseline and what was trained."""

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from narrative_jax.core.files import read_json
from narrative_jax.core.images import png
from narrative_jax.core.records import Candidate, Scene
from narrative_jax.data.datasets import open_records
from narrative_jax.report.run import Run
from narrative_jax.runs.examples import KEPT, REJECTS
from narrative_jax.statistics.comparison import aspect_values

PORTRAIT_SIDE, PICTURE_SIDE = 160, 256  # pixels that are kept of larger ones
SHOWN_PORTRAIT, SHOWN_PICTURE = 96, 120  # pixels on the page, about
PIXEL_ART = 80  # pictures up to this side are shown with their pixels
SCENES_A_GROUP, PICTURES_A_SCENE, SAMPLE_GRIDS, PAIRS, STEPS = 3, 2, 3, 6, 4


@dataclass(frozen=True)
class Picture:
    """A data URI with its size on the page and what it shows."""

    source: str
    width: int
    height: int
    pixels: bool
    alt: str


@dataclass(frozen=True)
class Row:
    """A scene: `portraits` by name, `arms` as (name, mean score, pictures)."""

    id: str
    prompt: str
    portraits: list[tuple[str, Picture]]
    arms: list[tuple[str, str, list[Picture]]]


def groups(run: Run) -> Iterator[tuple[str, list[Row]]]:
    """Title and scenes: those that gained most and least by the shown arm, and some by lot."""
    if not run.judge:
        return
    names = ["baseline"] + [run.shown] * bool(run.shown)
    folder = run.workdir / run.judge
    scenes = open_records(folder / "scenes", Scene)
    candidates = {name: open_records(folder / name / "candidates", Candidate) for name in names}
    means = {name: mean_scores(run, name) for name in names}
    changes = means[names[-1]] - (means["baseline"] if run.shown else 0)
    for title, rows in _chosen(changes).items():
        yield title, [_row(run, scenes[row], row, candidates, means) for row in rows]


@dataclass(frozen=True)
class Pair:
    """What refinement looked at: the subjects' images, the picture, and what is said of them."""

    portraits: list[Picture]
    picture: Picture
    words: str


def refined(run: Run) -> Iterator[tuple[str, list[Pair]]]:
    """Some of the pairs that were kept to learn from, and of those that were left out, by reason."""
    if run.refined is None:
        return
    folder = run.workdir / run.refined
    pictures, scenes = open_records(folder / "candidates", Candidate), open_records(folder / "scenes", Scene)
    row_of = pictures.rows_by("id")
    kept = read_json(folder / KEPT)
    rejects = [json.loads(line) for line in (folder / REJECTS).read_text(encoding="utf-8").splitlines()]
    shown = {f"Kept, {len(kept):,}": [(id, "") for id in kept]}
    for reason in dict.fromkeys(each["reason"] for each in rejects):
        out = [(each["id"], each.get("words", "")) for each in rejects if each["reason"] == reason]
        shown[f"Left out, {reason}, {len(out):,}"] = out
    for title, found in shown.items():
        rows = [(scenes[row_of[id]], pictures[row_of[id]].image, words) for id, words in found[:PAIRS]]
        yield title, [_pair(*row) for row in rows]


def by_step(run: Run) -> Iterator[tuple[str, list[Row]]]:
    """Title and scenes of what was chosen from: the first ones, as each kept adapter draws them from the same noise."""
    for entry in run.entries("choose"):
        folder = run.workdir / entry
        found = read_json(folder / "results.json")
        scenes = open_records(folder / "scenes", Scene)
        steps = np.array(sorted(map(int, found["steps"])))
        shown = sorted({*steps[np.linspace(0, len(steps) - 1, STEPS).round().astype(int)].tolist(), found["chosen"]})
        drawn = {step: open_records(folder / f"step_{step}" / "candidates", Candidate) for step in shown}
        rows = []
        for row in range(min(SCENES_A_GROUP, len(scenes))):
            scene, arms = scenes[row], []
            for step, records in drawn.items():
                image = records[row * len(records) // len(scenes)].image
                name = f"step {step}"
                chosen = "chosen" if step == found["chosen"] else ""
                arms.append((name, chosen, [shown_picture(image, f"{name}: {scene.prompt}")]))
            rows.append(Row(scene.id, scene.prompt, portraits_of(scene), arms))
        yield f"{entry}: how far {run.config[entry]['source']} should have gone", rows


def mean_scores(run: Run, arm: str) -> np.ndarray:
    """The mean over aspects f64[scenes]; those of a reward, on scales of their own, in deviations of the baseline."""
    baseline, own = (
        aspect_values(np.asarray(run.results["arms"][name]), run.results["aspects"]) for name in ("baseline", arm)
    )
    if not run.gold:
        own = (own - baseline.mean(0)) / np.maximum(baseline.std(0), 1e-6)
    return own.mean(1)


def samples(run: Run) -> list[tuple[str, Picture]]:
    """Some of the grids that were drawn while training, from first to last."""
    paths = sorted((run.workdir / run.trained / "samples").glob("step-*.png")) if run.trained else []
    places = np.unique(np.linspace(0, len(paths) - 1, SAMPLE_GRIDS).round().astype(int)) if paths else []
    found = []
    for path in (paths[place] for place in places):
        step = int(path.stem.removeprefix("step-"))
        with Image.open(path) as image:
            width, height = image.size
        grid = Picture(_uri(path.read_bytes()), width // 2, height // 2, False, f"sample grid of step {step}")
        found.append((f"step {step}", grid))
    return found


def portraits_of(scene: Scene) -> list[tuple[str, Picture]]:
    """The first image of each subject, by name."""
    return [
        (each.name, shown_picture(each.images[0], f"portrait of {each.name}", PORTRAIT_SIDE, SHOWN_PORTRAIT))
        for each in scene.subjects
    ]


def shown_picture(image: np.ndarray, alt: str, most: int = PICTURE_SIDE, shown: int = SHOWN_PICTURE) -> Picture:
    """A picture u8[h, w, 3] with up to `most` pixels a side, `shown` about: small ones grow by a whole factor."""
    small = Image.fromarray(image)
    small.thumbnail((most, most), Image.Resampling.LANCZOS)
    side = max(small.size)
    scale = max(1, shown // side) if side <= PIXEL_ART else shown / side
    width, height = (max(1, round(length * scale)) for length in small.size)
    return Picture(_uri(png(np.asarray(small))), width, height, side <= PIXEL_ART, alt)


def _chosen(changes):
    """Rows of the scenes by title, none twice."""
    order, count = np.argsort(-changes, kind="stable"), min(SCENES_A_GROUP, max(1, len(changes) // 3))
    best, worst = order[:count], order[count:][::-1][:count]
    rest = order[count : len(order) - len(worst)]
    drawn = np.random.default_rng(0).permutation(np.sort(rest))[:SCENES_A_GROUP]
    rows = {"Best": best, "Worst": worst, "By lot": drawn}
    return {title: found.tolist() for title, found in rows.items() if len(found)}


def _row(run, scene, row, candidates, means):
    arms = []
    for name, records in candidates.items():
        per_scene = len(records) // len(run.results["scenes"])
        first = row * per_scene
        images = [records[place].image for place in range(first, first + min(per_scene, PICTURES_A_SCENE))]
        label = "baseline" if name == "baseline" else run.name_of(name)
        pictures = [shown_picture(image, f"{label}: {scene.prompt}") for image in images]
        arms.append((label, f"{means[name][row] + 0.0:.3f}", pictures))
    return Row(scene.id, scene.prompt, portraits_of(scene), arms)


def _pair(scene, image, words):
    portraits = [portrait for _, portrait in portraits_of(scene)]
    return Pair(portraits, shown_picture(image, scene.prompt, shown=SHOWN_PORTRAIT), words or scene.prompt)


def _uri(file):
    return f"data:image/png;base64,{b64encode(file).decode()}"
