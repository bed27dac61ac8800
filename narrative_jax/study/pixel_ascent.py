"""How far a reward can be driven by its own gradient, and what gold says of the pictures that it leads to.

    python -m narrative_jax.study.pixel_ascent --encoders FOLDER --out docs/pixel_ascent.md

Pictures of the embedded generator for tune scenes; each step moves each by the same root mean square along the gradient
of its reward. Without `--encoders` the rewards are made of the encoders that ship; with more folders of such files
there is a table for each. `--nireward` and `--silent` name weights that a training of NIReward left: by the gradient of
its scores with its critiques, written anew for each step, held fixed, and of those that it gives at once.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from narrative_jax.core.command import Parser, run
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.files import write_bytes
from narrative_jax.core.images import to_float, to_uint8
from narrative_jax.core.markdown import table
from narrative_jax.core.records import Scene
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.models.shipped import EMBEDDED, STORYBOOK
from narrative_jax.rewards.aesthetic import AestheticOptions
from narrative_jax.rewards.base import PureReward
from narrative_jax.rewards.clip_scores import ClipCosineOptions
from narrative_jax.rewards.identity import IdentityOptions
from narrative_jax.rewards.nireward_files import NIRewardOptions
from narrative_jax.rewards.oracle import judge_images
from narrative_jax.statistics import paired_bootstrap
from narrative_jax.study.command import check_folder, provenance
from narrative_jax.study.drawn import draw, embedded_generator

STEPS = (5, 20, 60)  # after which gold looks
STRIDE = 0.01  # root mean square over a picture of each step, of a range of 2
_HALVES = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))  # where two characters stand


def rewards(folder: Path) -> dict[str, PureReward]:
    """The rewards made of the files of a folder such as narrative_jax/storybook/weights/encoders. Raises InputError."""
    known = {"size": STORYBOOK, "side": 40, "max_subjects": 2, "regions": _HALVES}
    return {
        "identity, IResNet": IdentityOptions(folder / "iresnet.safetensors", "iresnet", **known).build(),
        "identity, DINOv2's network": IdentityOptions(folder / "dinov2.safetensors", "dinov2", **known).build(),
        "CLIP's cosine": ClipCosineOptions(folder / "clip.safetensors", STORYBOOK).build(),
        "aesthetic head": AestheticOptions(
            folder / "clip.safetensors", folder / "aesthetic.safetensors", STORYBOOK
        ).build(),
    }


def nirewards(writing: Sequence[Path], silent: Sequence[Path]) -> dict[str, PureReward]:
    """The trained NIRewards of these files of weights; of the latter as they judge at once. Raises InputError."""
    made = {f"NIReward, {path}": NIRewardOptions(path).build() for path in writing}
    return made | {f"NIReward at once, {path}": NIRewardOptions(path).build().silent for path in silent}


def ascend(reward: PureReward, images: np.ndarray, scenes: Sequence[Scene]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Pictures u8[b, 40, 40, 3] and rewards f32[b], means of their aspects, after no step and each of `STEPS`."""
    context, params = reward.encode(scenes), reward.params

    @jax.jit
    def step(pictures):
        def total(pictures):
            scores = reward.score(params, pictures, context).mean(1)  # one that judges aspects is driven on all
            return scores.sum(), scores

        gradient, scores = jax.grad(total, has_aux=True)(pictures)
        length = jax.numpy.sqrt(jax.numpy.square(gradient).mean((1, 2, 3), keepdims=True))
        return (pictures + STRIDE * gradient / jax.numpy.maximum(length, 1e-12)).clip(-1, 1), scores

    found, pictures = {}, to_float(images)
    for number in range(STEPS[-1] + 1):
        moved, scores = step(pictures)
        if number in (0, *STEPS):
            found[number] = to_uint8(pictures), np.asarray(scores)
        pictures = moved
    return found


def report(rewards: dict[str, PureReward], images: np.ndarray, scenes: Sequence[Scene]) -> str:
    """A row for each reward and number of steps, in Markdown."""
    head = [
        "reward",
        "steps",
        "moved",
        "reward",
        "rise in deviations",
        "P",
        "I",
        "Q",
        "mean of aspects",
        "per deviation",
    ]
    rows = []
    for name, reward in tqdm(rewards.items(), desc="rewards"):
        found = ascend(reward, images, scenes)
        start, before = found[0]
        gold = judge_images(start, scenes).aspects
        for number in STEPS:
            pictures, after = found[number]
            gained = judge_images(pictures, scenes).aspects
            by = paired_bootstrap(gained.mean(1), gold.mean(1))
            moved = np.sqrt(np.square(to_float(pictures) - to_float(start)).mean())
            rise = (after.mean() - before.mean()) / before.std()
            aspects = [f"{value:+.3f}" for value in (gained - gold).mean(0)]
            mean = f"{by.estimate:+.3f} [{by.low:+.3f}, {by.high:+.3f}]"
            driven = f"{before.mean():.3f} → {after.mean():.3f}"
            cells = [name, number, f"{moved:.3f}", driven, f"{rise:.1f}", *aspects, mean, f"{by.estimate / rise:+.4f}"]
            rows.append(cells)
    return table(head, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--encoders", nargs="*", type=Path, default=[EMBEDDED / "encoders"], help="folders of weights")
    for name in ("nireward", "silent"):
        parser.add_argument(f"--{name}", nargs="*", type=Path, default=[], help="weights of trained NIRewards")
    parser.add_argument("--scenes", type=int, default=128, help="tune scenes, a picture each (default 128)")
    parser.add_argument("--out", type=Path, help="a Markdown file to write the tables to, too")
    return run(_report, parser, arguments)


def _report(options):
    check_count("scenes", options.scenes, minimum=2)
    for folder in options.encoders:
        if not folder.is_dir():
            raise InputError(f"encoders {folder}", "there is no such folder", "name one with iresnet.safetensors, ...")
    if options.out:
        check_folder(options.out.parent)
    trained = nirewards(options.nireward, options.silent)
    start = time.monotonic()
    scenes = storybook_scenes("tune", options.scenes)
    images = draw(*embedded_generator(), scenes, 1)[:, 0]
    parts = ["# Rewards under pixel ascent", _MEANING.format(scenes=options.scenes, stride=STRIDE)]
    for folder in options.encoders:
        title = "the encoders that ship" if folder == EMBEDDED / "encoders" else folder.name
        parts += [f"## By {title}", report(rewards(folder), images, scenes)]
    if trained:
        parts += ["## By NIReward", report(trained, images, scenes)]
    command = f"narrative_jax.study.pixel_ascent --scenes {options.scenes}"
    if options.encoders != [EMBEDDED / "encoders"]:
        command += " ".join([" --encoders", *map(str, options.encoders)])
    for name in ("nireward", "silent"):
        if paths := getattr(options, name):
            command += " ".join([f" --{name}", *map(str, paths)])
    page = "\n\n".join([*parts, provenance(command, time.monotonic() - start, ("jax", "flax"))])
    print(page)
    if options.out:
        write_bytes(options.out, page.encode())


_MEANING = """\
{scenes} pictures of the embedded generator, one for each tune scene. A step moves each by a root mean square of
{stride} (of a range of 2) along its reward's gradient, of several aspects that of their mean. The rise is in
deviations of the reward over the pictures as drawn; P, I and Q are what gold's aspects gain, with the 95 % bootstrap
interval of their mean, and the last column is that mean per deviation of reward."""


if __name__ == "__main__":
    sys.exit(main())
