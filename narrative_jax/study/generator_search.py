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
from narrative_jax.core.files import read_json, write_bytes
from narrative_jax.generators.flow_presets import STORYBOOK_FLOW, FlowPreset
from narrative_jax.generators.sampling import Sampling
from narrative_jax.storybook.oracle import MEASURES
from narrative_jax.study.command import check_folder, provenance
from narrative_jax.study.drawn import seconds_a_picture

CONFIG = "configs/pretrain.py"
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
_FINE = replace(
    STORYBOOK_FLOW, patch=5, subject_size=25, subject_offsets=((0, -5), (0, 8)), transformer=_sized(channels=75)
)
_SMALL_PORTRAITS = replace(_FINE, subject_size=20, subject_offsets=((0, -4), (0, 8)))
VARIANTS = {
    "patches of 8": Variant(_COARSE),
    "patches of 5": Variant(_FINE),
    "patches of 5, batches of 32": Variant(_FINE, {"batch_size": 32}),
    "patches of 5, portraits of 20": Variant(_SMALL_PORTRAITS),
    "patches of 5, 7 blocks": Variant(replace(_FINE, transformer=_sized(channels=75, single_blocks=6))),
    "patches of 5, later times": Variant(
        replace(_FINE, timestep_distribution=replace(_FINE.timestep_distribution, mean=0.3))
    ),
}


def train(name: str, minutes: float, workdir: Path) -> dict[str, float]:
    """Train and judge a variant for so long; returns its steps, seconds and what was found."""
    variant, folder = VARIANTS[name], workdir / name.replace(" ", "_").replace(",", "")
    tables = replace(pipeline.default_tables(), presets={load(CONFIG).generator.preset: variant.preset})
    seconds = _step_seconds(variant, folder / "measured", tables)
    config = _config(variant, max(MEASURED_STEPS, round(60 * minutes / seconds)))
    pipeline.run(config, folder / "run", tables=tables)
    results = read_json(folder / "run" / "evaluate" / "results.json")
    rows, complete = np.array(results["arms"]["pretrain"]), np.array(results["complete"]["pretrain"])
    alone = complete & (rows[:, MEASURES.index("count")] == 1)
    groups = {group: np.array(inside) for group, inside in results["groups"].items()}
    drawn = seconds_a_picture(variant.preset, Sampling(**config.sampling))
    found = {f"complete/{group}": complete[inside].mean() for group, inside in groups.items()}
    means = dict(zip(MEASURES, rows.mean(0), strict=True))
    return (
        {"steps": config.pretrain.total_steps, "step": seconds, "picture": drawn, "alone": alone.mean()} | found | means
    )


def _config(variant, steps):
    config = load(CONFIG)
    config.stages = ("pretrain", "evaluate")
    config.generator.text = ""
    config.pretrain.update(total_steps=steps, save_every=10**6, sample_every=0, **variant.training)
    config.pretrain.optimizer.warmup_steps = min(200, steps // 5)
    config.evaluate.scenes = SCENES
    return config


def _step_seconds(variant, folder, tables):
    """The median over a few steps."""
    config = _config(variant, MEASURED_STEPS)
    config.stages = ("pretrain",)
    pipeline.run(config, folder, tables=tables)
    lines = (folder / "pretrain" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return float(np.median([json.loads(line)["step_seconds"] for line in lines[2:]]))


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """A row for each variant."""
    shown = ("prompt_following", "identity_consistency", "visual_quality", "actions", "no_copy")
    groups = ("complete/one_character", "complete/two_characters", "alone")
    header = ["variant", "steps", "s a step", "ms to draw a picture", "P", "I", "Q", "actions", "no copy"]
    lines = [[*header, "all of one", "all of two", "nobody besides"], ["---"] * (len(header) + 3)]
    for name, values in found.items():
        cells = [f"{values[key]:.3f}" for key in (*shown, *groups)]
        numbers = [f"{values['steps']:.0f}", f"{values['step']:.2f}", f"{1000 * values['picture']:.0f}"]
        lines.append([name, *numbers, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    page = "\n".join([title, table(found), "", provenance(command, time.monotonic() - start, ("jax", "flax"))])
    print(page)
    if options.out:
        write_bytes(options.out, page.encode())


if __name__ == "__main__":
    sys.exit(main())
