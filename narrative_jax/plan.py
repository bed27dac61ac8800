"""Plans a config's training and drawing on TPUs without the TPUs: memory, FLOPs, traffic between chips, time.

    python -m narrative_jax.plan --config=configs/adpo.py:flux --topology=v5p:4x4x4

The real train step of each entry that trains the generator, and what draws its pictures, are compiled for the mesh
that the config names, minutes each. Values of the config are changed as for a run (`--config.align.batch_size=128
--config.mesh.fsdp=64`). Times are bounds from below, from what is assumed of a chip: compute at its peak (what is
worked out again to save memory takes time, but is no useful FLOP), memory traffic of the compiled program, rings over
the links, what slices send each other over the network; nothing was run. --search ranks meshes, microbatches and what
blocks keep for the gradient.
Exit codes: 0 planned; 2 bad input.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ml_collections import FrozenConfigDict

from narrative_jax.core.command import Parser, exit_code, parse_changes
from narrative_jax.core.config import load_changed
from narrative_jax.core.errors import InputError, check_count

FLAGS = {
    "--config": "a recipe or a config file, with a variant of it after a colon",
    "--topology": "kind of chip and slice of them, e.g. v5p:4x4x4",
    "--only": "plan these programs, with commas between: train entries, or 'sampling'",
    "--json": "a file to write the numbers to, too",
}
NUMBERS = {
    "--slices": (int, "so many slices, data over them (default 1)"),
    "--pairs": (int, "say how long so many take (default: those of the entry's total_steps)"),
    "--tflops": (float, "of a chip in bfloat16, instead of what is published"),
    "--memory-gbs": (float, "GB/s of a chip's memory, instead of what is published"),
    "--link-gbs": (float, "GB/s of a chip's links in all, instead of what is published"),
    "--network-gbs": (float, "GB/s of a chip's share of the network between slices, instead of what is published"),
    "--hbm-gib": (float, "GiB of a chip's memory, instead of what the compiler lets a program have"),
}
SEARCH = "--search"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; returns the exit code."""
    return exit_code(lambda: _plan(sys.argv[1:] if argv is None else argv))


def _plan(argv):
    options, changes = _parse(argv)
    # Imported late: JAX takes its time, and a slip in the flags should not.
    from narrative_jax.core.files import check_writable, write_json
    from narrative_jax.pipeline import check_stages, completed, default_tables
    from narrative_jax.planning.planner import Asked, plan

    config, tables = completed(load_changed(options.config, changes)), default_tables()
    check_stages(config, tables)
    if options.json:
        check_writable(Path(options.json).parent)
    asked = {field.name: getattr(options, field.name) for field in fields(Asked)}
    found = plan(FrozenConfigDict(config), Asked(**asked), tables)
    if options.json:
        write_json(Path(options.json), {"config": options.config, "changes": changes, **found})


def _parse(argv) -> tuple[Namespace, list[str]]:
    """The flags, and the changes to the config as they stand."""
    parser = Parser(prog="narrative_jax.plan", description=__doc__, allow_abbrev=False)
    for flag, text in FLAGS.items():
        parser.add_argument(flag, default="", help=text)
    for flag, (kind, text) in NUMBERS.items():
        parser.add_argument(flag, type=kind, help=text)
    parser.add_argument(
        SEARCH, action="store_true", help="rank meshes, microbatches and what is kept, compile the best"
    )
    options, changes = parse_changes(parser, argv, [*FLAGS, *NUMBERS, SEARCH])
    for flag, example in (("config", "adpo:flux"), ("topology", "v5p:4x4x4")):
        if not getattr(options, flag):
            raise InputError(f"--{flag}", f"it is {FLAGS[f'--{flag}']}", f"give one, e.g. --{flag}={example}")
    options.slices = 1 if options.slices is None else options.slices
    for flag in ("pairs", "slices"):
        if getattr(options, flag) is not None:
            check_count(f"--{flag}", getattr(options, flag), minimum=1)
    for flag in ("tflops", "memory_gbs", "link_gbs", "network_gbs", "hbm_gib"):
        value = getattr(options, flag)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{flag.replace('_', '-')} {value:g}", "it is a number > 0", "give one")
    return options, changes


if __name__ == "__main__":
    sys.exit(main())
