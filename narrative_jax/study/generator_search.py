"""Which small generator is worth training for long: variants of Storybook's, each for the same time, on tune scenes.

    python -m narrative_jax.study.generator_search --minutes 15 --out docs/generator_search.md

Each variant is trained as `configs/pretrain.py` says, on the text encoder that ships, for as many steps as fit into the
time; then the oracle judges a picture of each of 256 tune scenes. Run it from the repository's root; what is finished
in `--workdir` is not done again.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from narrative_jax import pipeline
from narrative_jax.core.command import Parser, run
from narrative_jax.core.config import load
from narrative_jax.core.errors import check_name
from narrative_jax.core.files import write_bytes
from narrative_jax.core.markdown import table
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.generators.flow_presets import STORYBOOK_FLOW, FlowPreset
from narrative_jax.rewards.oracle import judge_images
from narrative_jax.runs.painter import open_painter
from narrative_jax.study.command import check_folder, provenance
from narrative_jax.study.drawn import draw, seconds_a_picture
from narrative_jax.study.generator_card import figures

CONFIG = "pretrain"
SCENES, MEASURED_STEPS = 256, 12  # that a variant is judged on; that tell how long one takes


@dataclass(frozen=True)
class Variant:
    """A generator, and what its training changes in the config's."""

    preset: FlowPreset
    training: Mapping[str, Any] = field(default_factory=dict)


def _sized(**changes):
    return replace(STORYBOOK_FLOW.transformer, **changes)


_COARSE = replace(
    STORYBOOK_FLOW, patch=8, subject_size=24, subject_offsets=((0, -4), (0, 6)), transformer=_sized(channels=192)
)
_SMALL_PORTRAITS = replace(STORYBOOK_FLOW, subject_size=20, subject_offsets=((0, -4), (0, 8)))
VARIANTS = {
    "patches of 8": Variant(_COARSE),
    "patches of 5": Variant(STORYBOOK_FLOW),
    "patches of 5, batches of 32": Variant(STORYBOOK_FLOW, {"batch_size": 32}),
    "patches of 5, portraits of 20": Variant(_SMALL_PORTRAITS),
    "patches of 5, 7 blocks": Variant(replace(STORYBOOK_FLOW, transformer=_sized(single_blocks=6))),
    "patches of 5, later times": Variant(
        replace(STORYBOOK_FLOW, timestep_distribution=replace(STORYBOOK_FLOW.timestep_distribution, mean=0.3))
    ),
}


def train(name: str, minutes: float, workdir: Path) -> dict[str, float]:
    """Train and judge a variant for so long; returns its steps, seconds and what was found."""
    variant, folder = VARIANTS[name], workdir / name.replace(" ", "_").replace(",", "")
    tables = replace(pipeline.default_tables(), presets={load(CONFIG).generator.preset: variant.preset})
    seconds = _step_seconds(variant, folder / "measured", tables)
    config = _config(variant, max(MEASURED_STEPS, round(60 * minutes / seconds)))
    pipeline.run(config, folder / "run", tables=tables)
    painter, scenes = open_painter(folder / "run", "pretrain", tables), storybook_scenes("tune", SCENES)
    picture = seconds_a_picture(variant.preset, painter.sampling)
    images = draw(painter.generator, painter.params, scenes, 1, painter.sampling)[:, 0]
    judgement = judge_images(images, scenes)
    taken = {"steps": config.pretrain.total_steps, "s a step": seconds, "s a picture": picture}
    return taken | figures(judgement, scenes)


def _config(variant, steps):
    config = load(CONFIG)
    config.stages, config.generator.text = ("pretrain",), ""
    config.pretrain.update(total_steps=steps, save_every=10**6, sample_every=0, **variant.training)
    config.pretrain.optimizer.warmup_steps = min(200, steps // 5)
    return config


def _step_seconds(variant, folder, tables):
    """The median over a few steps."""
    pipeline.run(_config(variant, MEASURED_STEPS), folder, tables=tables)
    lines = (folder / "pretrain" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return float(np.median([json.loads(line)["step_seconds"] for line in lines[2:]]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the variants and print a table; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="of training for each (default 15)")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), help="names (default all)")
    parser.add_argument("--workdir", type=Path, default=Path("runs/generator_search"))
    parser.add_argument("--out", type=Path, help="a Markdown file to write the table to, too")
    return run(_report, parser, arguments)


def _report(options):
    for name in options.variants:
        check_name("variant", name, VARIANTS)
    if options.out:
        check_folder(options.out.parent)
    start = time.monotonic()
    found = {name: train(name, options.minutes, options.workdir) for name in options.variants}
    title = f"# Variants of the generator\n\nEach trained for {options.minutes:g} minutes; 256 tune scenes.\n"
    command = f"narrative_jax.study.generator_search --minutes {options.minutes:g}"
    header, rows = ["variant", *next(iter(found.values()))], [[name, *row.values()] for name, row in found.items()]
    page = "\n".join([title, table(header, rows), "", provenance(command, time.monotonic() - start, ("jax", "flax"))])
    print(page)
    if options.out:
        write_bytes(options.out, page.encode())


if __name__ == "__main__":
    sys.exit(main())
