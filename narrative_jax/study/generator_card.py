"""What the embedded generator draws, and does wrong: presence, aspects, copied poses, leaks, by guidance.

    python -m narrative_jax.study.generator_card --guidance 2.5,2.5 2.5,1 --out docs/generator.md

One picture of each of 256 tune scenes, judged by the oracle: a row for each pair of guidance scales (of the text, of
the subjects), then kinds of scenes by the first of them. `--weights` takes a transformer that does not ship.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from narrative_jax.core.command import Parser, run
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.files import write_bytes
from narrative_jax.core.markdown import table
from narrative_jax.core.records import Scene
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.generators.sampling import Sampling
from narrative_jax.rewards.oracle import judge_images, kinds_of_scenes
from narrative_jax.storybook.oracle import CRITERIA, Findings, Judgement
from narrative_jax.study.command import check_folder, provenance
from narrative_jax.study.drawn import draw, embedded_generator

ACTIONS = CRITERIA.index("actions")
_COPIED = 0.5  # of the criterion of one character, below which its pose is the portrait's


def _everybody(findings):
    return not findings.missing


def _exactly(findings):
    return not findings.missing and not findings.extra


def _leaked(findings):
    return any(character.leaked for character in findings.characters)


def _share(judgement: Judgement, rows: np.ndarray, has: Callable[[Findings], bool]) -> float:
    """Of the pictures in `rows` bool[b], those of which something holds."""
    return float(np.mean([has(judgement.findings[row]) for row in np.flatnonzero(rows)]))


def figures(judgement: Judgement, scenes: Sequence[Scene]) -> dict[str, float]:
    """What a row says, by column."""
    kinds, every = kinds_of_scenes(scenes), np.ones(len(scenes), bool)
    copied = [seen.identity[2] < _COPIED for findings in judgement.findings for seen in findings.characters]
    prompt, identity, quality = judgement.aspects.mean(0)
    return {
        "all there, of one": _share(judgement, kinds["one_character"], _everybody),
        "of two": _share(judgement, kinds["two_characters"], _everybody),
        "nobody besides": _share(judgement, every, lambda findings: not findings.extra),
        "P": prompt,
        "actions": judgement.criteria[:, ACTIONS].mean(),
        "I": identity,
        "Q": quality,
        "poses copied": float(np.mean(copied)) if copied else np.nan,
        "leaks, of two": _share(judgement, kinds["two_characters"], _leaked),
    }


def by_kind(judgement: Judgement, scenes: Sequence[Scene]) -> Iterator[tuple[str, int, list[float]]]:
    """Name and number of each kind of scenes, with the share drawn with exactly those asked for, P, I and Q."""
    kinds = kinds_of_scenes(scenes)
    for name in ("location", "style"):
        words = np.array([getattr(scene.facts, name) for scene in scenes])
        kinds |= {word: words == word for word in np.unique(words)}
    for kind, rows in kinds.items():
        if rows.any():
            yield kind, int(rows.sum()), [_share(judgement, rows, _exactly), *judgement.aspects[rows].mean(0)]


def _scales(text):
    """The guidance scales of the text and of the subjects."""
    try:
        text_scale, subject_scale = map(float, text.split(","))
    except ValueError as error:
        raise InputError(f"guidance {text!r}", "it is a pair of scales", "write one such as 2.5,1") from error
    return {"guidance_scale": text_scale, "subject_guidance_scale": subject_scale}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit code."""
    parser, usual = Parser(description=__doc__), Sampling()
    default = f"{usual.guidance_scale:g},{usual.guidance_scale:g}"
    parser.add_argument("--guidance", nargs="+", default=[default], metavar="TEXT,SUBJECTS", help=f"default {default}")
    parser.add_argument(
        "--steps", type=int, default=usual.num_steps, help=f"of the sampler (default {usual.num_steps})"
    )
    parser.add_argument("--scenes", type=int, default=256, help="tune scenes, a picture each (default 256)")
    parser.add_argument("--weights", default="", help="of a transformer, by default those that ship")
    parser.add_argument("--out", type=Path, help="a Markdown file to write the tables to, too")
    return run(_report, parser, arguments)


def _report(options):
    check_count("scenes", options.scenes, minimum=2)
    samplings = [replace(Sampling(), num_steps=options.steps, **_scales(pair)) for pair in options.guidance]
    if options.out:
        check_folder(options.out.parent)
    start, scenes = time.monotonic(), storybook_scenes("tune", options.scenes)
    generator, params = embedded_generator(options.weights)
    judged = [judge_images(draw(generator, params, scenes, 1, sampling)[:, 0], scenes) for sampling in samplings]
    found = [figures(judgement, scenes) for judgement in judged]
    rows = [[pair, *row.values()] for pair, row in zip(options.guidance, found, strict=True)]
    kinds = [[kind, n, *values] for kind, n, values in by_kind(judged[0], scenes)]
    command = f"narrative_jax.study.generator_card --scenes {options.scenes} --steps {options.steps}"
    command += f" --guidance {' '.join(options.guidance)}" + f" --weights {options.weights}" * bool(options.weights)
    parts = [
        "# What the embedded generator draws",
        _MEANING.format(scenes=options.scenes, steps=options.steps),
        table(["guidance of text, subjects", *found[0]], rows),
        f"Kinds of scenes, with guidance {rows[0][0]}:",
        table(["kind", "scenes", "exactly those asked for", "P", "I", "Q"], kinds),
        provenance(command, time.monotonic() - start, ("jax", "flax")),
    ]
    page = "\n\n".join(parts)
    print(page)
    if options.out:
        write_bytes(options.out, page.encode())


_MEANING = """\
{scenes} tune scenes, one picture each in {steps} Euler steps, judged by the oracle; shares and means. Copied are poses
of matched characters; a leak is an attribute of the other one."""


if __name__ == "__main__":
    sys.exit(main())
