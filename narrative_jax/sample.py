"""Draws pictures for a prompt and portraits of one's own, with what a run trained or the embedded generator.

    python -m narrative_jax.sample --run=runs/adpo --prompt="Mara waves in the forest, in pastel." --subject=mara.png

One PNG: the portraits, then the pictures. The prompt names characters in the order of their portraits. With
--entry=baseline --entry=align there is a row for the generator before and after alignment, from the same noise; an
entry can also be a LoRA file, or the folder that the export command writes. No portrait at hand? --storybook=test:3
takes those (and the prompt, unless one is given) of a scene of the embedded world.
From Python:

    from narrative_jax import sample

    painter = sample.load("runs/adpo")
    images = painter.draw("Mara waves in the forest, in pastel.", ["mara.png"], count=4)  # u8[4, h, w, 3]
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from narrative_jax.core.command import Parser, run
from narrative_jax.core.errors import InputError
from narrative_jax.core.files import check_writable, write_bytes
from narrative_jax.core.images import fit_image, grid, png
from narrative_jax.data.backgrounds import uncut
from narrative_jax.data.sources import own_scene, own_subjects, storybook_scenes
from narrative_jax.generators.sampling import Sampling
from narrative_jax.runs.painter import Painter, is_lora, open_painter
from narrative_jax.runs.tables import Tables
from narrative_jax.runs.trained import with_lora_file

_PER_ROW = 8  # pictures side by side in the PNG
_SHOWN_SIDE = 160  # pixels that a picture has at least there


def load(run: str | Path = "", entry: str = "", tables: Tables | None = None) -> Painter:
    """The generator of a run as its train entry `entry` (by default the last) left it; run "" is the embedded one.

    Entry "baseline" is what the run began with; a LoRA file (.safetensors, as diffusers, PEFT and FLUX's trainers name
    its arrays), or a folder with one as our export writes it, goes on top of that, unless the run has an entry of that
    name. `tables` are those that the run was made with. Raises InputError where there is no such run, file or folder,
    or the entry did not finish.
    """
    tables = tables or Tables()
    if run:
        return open_painter(run, entry, tables)
    if entry and not is_lora(entry):
        remedy = "name the run, too, or give a LoRA file or exported folder"
        raise InputError(f"entry {entry!r}", "it names a train entry of a run", remedy)
    preset = tables.presets["storybook"]
    generator, params = preset.load(preset.Options(), seed=0)
    if entry:
        generator, params = with_lora_file(Path(entry), generator, params)
    return Painter(generator, params, Sampling())


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="narrative_jax.sample", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--run", default="", help="a run directory; by default the embedded generator draws")
    parser.add_argument(
        "--entry", action="append", help="train entry, baseline, LoRA file or exported folder; repeat for rows"
    )
    parser.add_argument("--prompt", default="", help="what to draw")
    parser.add_argument("--subject", action="append", default=[], help="portrait of a character; repeat for the next")
    parser.add_argument("--storybook", default="", metavar="SPLIT:N", help="prompt and portraits of this scene")
    parser.add_argument("--count", type=int, default=4, help="how many pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--guidance-scale", type=float, help="1.0 is off; by default as in the run")
    parser.add_argument("--subject-guidance-scale", type=float, help="of the subjects; 1.0 is off")
    parser.add_argument("--num-steps", type=int, help="sampler steps; by default as in the run")
    parser.add_argument("--out", default="samples.png", help="the PNG to write")
    return run(_draw, parser, argv)


def _draw(options):
    if not options.out.endswith(".png"):
        raise InputError(f"--out={options.out}", "it is a PNG file", "give a name that ends in .png")
    check_writable(Path(options.out).parent)
    scene = _storybook_scene(options) if options.storybook else own_scene(options.prompt, options.subject)
    names = ("num_steps", "guidance_scale", "subject_guidance_scale")
    sampling = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    entries, rows = options.entry or [""], []
    for entry in entries:
        painter = load(options.run, entry)
        images = painter.draw_scene(scene, options.count, options.seed, **sampling)
        portraits = [fit_image(subject.images[0], len(images[0])) for subject in scene.subjects]
        for start in range(0, len(images), _PER_ROW):
            blank = [np.full_like(portrait, 255) for portrait in portraits]
            rows.append([*(blank if rows else portraits), *images[start : start + _PER_ROW]])
    _report_unread(painter, scene)
    if names := uncut(scene, painter.background):
        told = "shown as given, and this run learned from subjects without backgrounds; cut out (a PNG, transparent"
        print(f"portrait of {', '.join(names)}: {told} around it) pictures are better", file=sys.stderr)
    write_bytes(options.out, png(grid(rows, scale=-(-_SHOWN_SIDE // len(images[0])))))
    drawn = f"{len(images)} of {options.run or 'the embedded generator'}"
    shown = [f"{len(portraits)} portrait(s)", *(f"{drawn} {entry}".strip() for entry in entries)]
    print(f"{options.out}: {', '.join(shown)}")


def _report_unread(painter, scene):
    for kind, found in painter.generator.not_read([scene]).items():
        if found:
            told = f"{kind.replace('_', ' ')}: {', '.join(found)}"
            print(f"this generator does not read everything; {told}", file=sys.stderr)


def _storybook_scene(options):
    """A scene of the embedded world, with the prompt and portraits of the options where they are given."""
    split, _, number = options.storybook.partition(":")
    if not number.isdecimal():
        raise InputError(f"--storybook={options.storybook}", "it is SPLIT:NUMBER", "give one, e.g. test:3")
    scene = storybook_scenes(split, int(number) + 1)[-1]
    subjects = own_subjects(options.subject) if options.subject else scene.subjects
    return replace(scene, prompt=options.prompt or scene.prompt, subjects=subjects)


if __name__ == "__main__":
    sys.exit(main())
