"""DPO on preference pairs that lie in files, as people bring them: does gold rise, and does it matter how they lie?

    python -m narrative_jax.study.own_pairs --out docs/own_pairs.md

Draws pictures of train scenes with the embedded generator, writes the best and the worst of some scenes by the oracle
as files, trains with `configs/dpo.py` on them as a folder and as a JSONL file, and has the oracle judge other scenes.
Run it from the repository's root.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from narrative_jax import pipeline
from narrative_jax.core.command import Parser, run
from narrative_jax.core.config import load
from narrative_jax.core.errors import check_count
from narrative_jax.core.files import read_json, write_bytes
from narrative_jax.core.images import png
from narrative_jax.core.markdown import table
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.models.lora import read_adapter
from narrative_jax.rewards.oracle import judge_images
from narrative_jax.statistics.comparison import FEWEST, GIVEN_PRESENCE
from narrative_jax.study.command import check_folder, provenance
from narrative_jax.study.drawn import draw, embedded_generator

CONFIG, SCENE_SEED = "dpo", 3
CANDIDATES = 4  # of a scene, of which the best and the worst make its pair
SCENES_PER_PAIR = 4  # that are drawn, of which those with the clearest pairs are taken
PICTURES = 4  # of each test scene and arm
# Of all scenes each aspect, and of kinds of scenes the mean of them.
MEASURES = ("prompt_following", "identity_consistency", "visual_quality", "mean_of_aspects")
MEASURES += tuple(f"{kind}/mean_of_aspects" for kind in (GIVEN_PRESENCE, "one_character", "two_characters"))


def write_pairs(folder: Path, count: int) -> None:
    """`count` pairs as STEM_w.png, STEM_l.png and STEM.txt, the same in pairs.jsonl, and with_subjects.jsonl."""
    lines, more = [], []
    for number, (scene, images, scores) in enumerate(_clearest(count)):
        stem = f"{number:03d}"
        names = {"chosen": f"{stem}_w.png", "rejected": f"{stem}_l.png"}
        for name, place in zip(names.values(), (scores.argmax(), scores.argmin()), strict=True):
            write_bytes(folder / name, png(images[place]))
        write_bytes(folder / f"{stem}.txt", scene.prompt.encode())
        lines.append({"prompt": scene.prompt, **names})
        (folder / "portraits").mkdir(exist_ok=True)
        photos = [f"portraits/{stem}_{place}.png" for place in range(len(scene.subjects))]
        for photo, subject in zip(photos, scene.subjects, strict=True):
            write_bytes(folder / photo, png(subject.images[0]))
        subjects = [{"class_word": "character", "images": [photo]} for photo in photos]
        more.append({**lines[-1], "subjects": subjects})
    for name, rows in {"pairs.jsonl": lines, "with_subjects.jsonl": more}.items():
        write_bytes(folder / name, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _clearest(count):
    """(scene, its pictures, their scores) of those scenes, `count` of `SCENES_PER_PAIR` times as many, whose best and
    worst picture are furthest apart: who picks pairs by hand picks clear ones.
    """
    scenes = storybook_scenes("train", SCENES_PER_PAIR * count, SCENE_SEED)
    images = draw(*embedded_generator(), scenes, CANDIDATES)
    asked = [scene for scene in scenes for _ in range(CANDIDATES)]
    scores = judge_images(np.concatenate(images), asked).aspects.mean(1).reshape(len(scenes), CANDIDATES)
    widest = np.sort(np.argsort(-np.ptp(scores, 1), kind="stable")[:count])
    return [(scenes[row], images[row], scores[row]) for row in widest]


def align(preferences: Path, workdir: Path, steps: int, scenes: int) -> dict[str, float]:
    """The summary of a run on these pairs, judged by gold on the first `scenes` test scenes."""
    config = load(CONFIG)
    config.collect.preferences = str(preferences)
    config.align.update(total_steps=steps, save_every=steps, sample_every=0)
    config.evaluate.update(source="", scenes=scenes, per_scene=PICTURES)
    config.report = False
    pipeline.run(config, workdir)
    return read_json(workdir / "summary.json")


def same_adapters(one: Path, other: Path) -> bool:
    """Whether two runs left the same bits."""
    (*_, first), (*_, second) = (read_adapter(workdir / "align" / "adapter.safetensors") for workdir in (one, other))
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


def report(count: int, steps: int, scenes: int) -> str:
    """The page."""
    start, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as temporary:
        pairs = Path(temporary) / "pairs"
        pairs.mkdir()
        write_pairs(pairs, count)
        runs = {"folder": pairs, "JSONL": pairs / "pairs.jsonl", "JSONL with subjects": pairs / "with_subjects.jsonl"}
        for name, preferences in runs.items():
            numbers = align(preferences, Path(temporary) / name, steps, scenes)
            rows.append([name, *(_cell(numbers, measure) for measure in MEASURES)])
        same = same_adapters(Path(temporary) / "folder", Path(temporary) / "JSONL")
    header = ["pairs as", *(measure.removesuffix("/mean_of_aspects").replace("_", " ") for measure in MEASURES)]
    return "\n".join(
        [
            "# DPO on one's own pairs",
            "",
            f"{count} pairs, the best and the worst of {CANDIDATES} pictures of a train scene by the oracle, as files; "
            f"those that are furthest apart in {SCENES_PER_PAIR * count} scenes. `configs/{CONFIG}.py`, {steps} steps. "
            f"Gold on {scenes} test scenes, {PICTURES} pictures each, adapter less baseline, 95 % intervals; of kinds "
            "of scenes the mean of the aspects (given presence: both show everybody).",
            "",
            table(header, rows),
            "",
            f"The adapters of folder and JSONL file, without subjects, are {'bit-equal' if same else 'NOT equal'}.",
            "",
            provenance("narrative_jax.study.own_pairs", time.monotonic() - start, ("jax", "flax", "numpy")),
        ]
    )


def _cell(numbers, measure):
    """Of kinds of which there are too few scenes there is nothing."""
    group, key = measure.rpartition("/")[0], f"gold/align_over_baseline/{measure}"
    if group and numbers[f"gold/align_over_baseline/{group}/scenes"] < FEWEST:
        return "–"
    return f"{numbers[f'{key}/diff']:+.3f} [{numbers[f'{key}/diff_low']:+.3f}, {numbers[f'{key}/diff_high']:+.3f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write pairs, train, and print a table; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=64, help="preference pairs (default 64)")
    parser.add_argument("--steps", type=int, default=100, help="training steps (default 100)")
    parser.add_argument("--scenes", type=int, default=128, help="test scenes (default 128)")
    parser.add_argument("--out", type=Path, help="a Markdown file to write the table to, too")
    return run(_report, parser, arguments)


def _report(options):
    for name in ("pairs", "steps"):
        check_count(name, getattr(options, name), minimum=1)
    check_count("scenes", options.scenes, minimum=2)
    if options.out:
        check_folder(options.out.parent)
    page = report(options.pairs, options.steps, options.scenes)
    print(page)
    if options.out:
        write_bytes(options.out, page.encode())


if __name__ == "__main__":
    sys.exit(main())
