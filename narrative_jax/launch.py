"""Runs a recipe, or a config file of one's own.

    python -m narrative_jax.launch --config=adpo

A recipe goes by its name, any other config by its path (`--config=configs/adpo.py`). It may know variants
(`--config=adpo:tiny`), and every value in it can be changed from here (`--config.align.batch_size=8
--config.stages='("generate",)'`). The same command goes on where an earlier run stopped; with --check it runs nothing.
Exit codes: 0 done; 2 bad input; 75 stopped by a signal after saving; 141 nobody reads the output any more (`| head`);
1 a defect.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from narrative_jax.core import processes
from narrative_jax.core.command import Parser, exit_code, parse_changes
from narrative_jax.core.config import find, load_changed
from narrative_jax.core.errors import InputError
from narrative_jax.core.stop import StopFlag

FLAGS = {
    "--config": "a recipe or a config file, with a variant of it after a colon",
    "--workdir": "the run directory; by default runs/ with the name of the config and its variant",
    "--stage": "run this entry of the config only",
    "--redo": "do this entry again, with all that is made from it; several with commas between",
}
CHECK = "--check"


def main(argv: Sequence[str] | None = None) -> int:
    """Flags -> config -> pipeline; returns the exit code, raises where there is a defect."""
    argv = sys.argv[1:] if argv is None else argv
    redoes = any(flag.partition("=")[0] == "--redo" for flag in argv)  # which would begin once more
    again = "run the same command without --redo" if redoes else "run the same command again"
    code = exit_code(lambda: _launch(argv), again)
    processes.end(code)
    return code


def _launch(argv):
    options, changes = _parse(argv)
    config = load_changed(options.config, changes)
    # Imported late: JAX takes its time, and a slip in the flags should not.
    from narrative_jax import pipeline

    with processes.joined(), StopFlag().on_signals() as stop:
        workdir = options.workdir or _default_workdir(options.config)
        if options.check:
            pipeline.check(pipeline.completed(config), workdir)
            print(f"{options.config}: all is in order")
            return
        pipeline.run(config, workdir, options.stage, stop, redo=options.redo)


def _parse(argv) -> tuple[Namespace, list[str]]:
    """The flags, and the changes to the config as they stand."""
    parser = Parser(prog="narrative_jax.launch", description=__doc__, allow_abbrev=False)
    for flag, text in FLAGS.items():
        parser.add_argument(flag, help=text)
    parser.add_argument(CHECK, action="store_true", help="look at the config and the files that it names, run nothing")
    options, changes = parse_changes(parser, argv, [*FLAGS, CHECK])
    if not options.config:
        raise InputError("--config", "it names a config file", "give one, e.g. --config=adpo")
    return options, changes


def _default_workdir(spec: str) -> Path:
    path, variant = find(spec)
    return Path("runs") / "-".join(filter(None, (Path(path).stem, variant)))


if __name__ == "__main__":
    sys.exit(main())
