"""A sheet of Storybook to look at: `python -m narrative_jax.study.contact_sheet`.

A row a scene: caption and portraits, the true picture, and damaged ones, each with the oracle's scores on the three
aspects and, of the aspect that a rater scores lowest, the score and the critique.
"""

import sys
import textwrap
from pathlib import Path

import matplotlib
import numpy as np

from narrative_jax.core.command import Parser, run
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.storybook.corruptions import CORRUPTIONS, can_corrupt, corrupt
from narrative_jax.storybook.datasets import drawings, scenes
from narrative_jax.storybook.oracle import ASPECTS, judge
from narrative_jax.storybook.raters import Rater
from narrative_jax.storybook.render import render
from narrative_jax.study.command import check_folder

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DAMAGED = 5  # damaged pictures a row
_STRENGTHS = {"noise": 0.3, "blur": 0.4, "cut off": 0.8, "overlap": 0.8}  # at which there is still much to see


def contact_sheet(num_scenes: int, seed: int, rater: Rater) -> plt.Figure:
    """Draw the sheet for scenes of the tune split. Raises InputError."""
    check_count("scenes", num_scenes, minimum=1)
    shown = scenes("tune", range(num_scenes), seed)
    _, drawing = drawings("tune", range(num_scenes), seed)
    columns = DAMAGED + 2
    figure, axes = plt.subplots(num_scenes, columns, figsize=(2 * columns, 2.75 * num_scenes), squeeze=False, dpi=100)
    figure.subplots_adjust(0.005, 0.22 / num_scenes, 0.995, 1 - 0.09 / num_scenes, wspace=0.05, hspace=0.46)
    kinds = iter(np.random.default_rng(seed).permutation(np.tile(CORRUPTIONS, 1 + num_scenes)).tolist())
    for row, scene in enumerate(shown):
        _show_scene(axes[row, 0], scene)
        titles, pictures = ["true"], [render(drawing[[row]])]
        while len(pictures) <= DAMAGED:
            kind = next(kinds)
            if kind not in titles and can_corrupt(drawing[[row]], kind)[0]:
                titles.append(kind)
                pictures.append(corrupt(drawing[[row]], kind, _STRENGTHS.get(kind, 1), seed + row))
        facts = [scene.facts] * len(pictures)
        judgement = judge(np.concatenate(pictures), facts)
        notes = rater.annotate(judgement, facts, [f"{scene.id}/{title}" for title in titles])
        for column, (title, picture) in enumerate(zip(titles, pictures, strict=True)):
            own = notes[column * len(ASPECTS) : (column + 1) * len(ASPECTS)]
            _show_picture(axes[row, column + 1], title, picture[0], judgement.aspects[column], own)
    return figure


def _show_scene(axis, scene):
    portraits = np.concatenate(
        [np.pad(s.images[0], ((1, 1), (1, 1), (0, 0)), constant_values=255) for s in scene.subjects], 1
    )
    axis.imshow(np.pad(portraits, ((8, 6), ((52 - portraits.shape[1]) // 2,) * 2, (0, 0)), constant_values=255))
    axis.set_title(" · ".join(s.name for s in scene.subjects), fontsize=10, fontweight="bold")
    axis.text(0.5, -0.02, textwrap.fill(scene.prompt, 28), transform=axis.transAxes, ha="center", va="top", fontsize=9)
    axis.axis("off")


def _show_picture(axis, title, picture, aspects, notes):
    axis.imshow((picture + 1) / 2, interpolation="nearest")
    axis.set_title(title, fontsize=10)
    worst = min(notes, key=lambda note: note.score)
    scores = "  ".join(f"{name} {score:.2f}" for name, score in zip("PIQ", aspects, strict=True))
    said = textwrap.fill(f"{worst.score:.1f}: {worst.critique}", 36)
    axis.text(0.5, -0.03, scores, transform=axis.transAxes, ha="center", va="top", fontsize=8, family="monospace")
    axis.text(0.5, -0.12, said, transform=axis.transAxes, ha="center", va="top", fontsize=7.5, style="italic")
    axis.axis("off")


def main(arguments: list[str] | None = None) -> int:
    """Write the sheet; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=4, help="rows (default 4)")
    parser.add_argument("--seed", type=int, default=3, help="of the scenes (default 3)")
    parser.add_argument("--rater", type=int, default=6, help="seed of the rater who writes the critiques (default 6)")
    parser.add_argument("--out", type=Path, default=Path("storybook.png"), help="default storybook.png")
    return run(_write, parser, arguments)


def _write(options):
    if options.out.suffix.lower() != ".png":
        raise InputError(f"--out {options.out}", "the sheet is a PNG", "end the name in .png")
    check_folder(options.out.parent)
    contact_sheet(options.scenes, options.seed, Rater(options.rater)).savefig(options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    sys.exit(main())
