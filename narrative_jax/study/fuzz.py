"""Damages what people bring and looks whether each reader says so: `python -m narrative_jax.study.fuzz`.

Files and config overrides get flipped, cut and doubled bytes and swapped fields. In one process, each reader makes a
value of them or raises InputError, nothing else; as whole commands they end with 0 or 2, without a traceback, leave
nothing half-written, in bounded time and memory. Examples of what does not are printed, and the exit code is 1.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from narrative_jax.core.command import BAD_INPUT, DONE, Parser, run
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.study.command import table
from narrative_jax.study.damaged import DRAWN, Target, mutations, put, targets

DIFFERENT = 1
MOST_SECONDS, MOST_BYTES = 20, 1.5e9  # of a command
_SHOWN = 5


def in_process(target: Target, count: int, folder: Path, rng: np.random.Generator) -> tuple[Counter, list[str]]:
    """How many damaged forms gave a value, an InputError or anything else, and what that was."""
    outcomes, wrong = Counter(), []
    for data in tqdm(mutations(target.seed, count, rng), target.name, count, delay=5):
        path = put(target, data, folder)
        try:
            target.read(path)
            outcomes["value"] += 1
        except InputError:
            outcomes["refused"] += 1
        except Exception as error:  # what this looks for
            outcomes["wrong"] += 1
            wrong.append(f"{target.name}: {type(error).__name__}: {str(error)[:200]} of {data[:80]!r}")
    return outcomes, wrong


def as_commands(target: Target, count: int, folder: Path, rng: np.random.Generator) -> tuple[Counter, list[str]]:
    """How many commands ended with 0 or with 2, or otherwise, and what was wrong with them."""
    outcomes, wrong = Counter(), []
    for data in tqdm(mutations(target.seed, count, rng), f"{target.name}, commands", count, delay=5):
        path = put(target, data, folder)
        command = target.command(path)
        before, start = sorted(folder.iterdir()), time.monotonic()
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, errors="replace")
        seconds, trouble = time.monotonic() - start, []
        outcomes[{DONE: "value", BAD_INPUT: "refused"}.get(done.returncode, "wrong")] += 1
        if done.returncode not in (DONE, BAD_INPUT) or "Traceback" in done.stderr:
            trouble.append(f"exit {done.returncode}, {done.stderr[-300:]}")
        new = {file.name for file in folder.iterdir()} - {file.name for file in before}
        if new - ({DRAWN} if done.returncode == DONE else set()):
            trouble.append(f"left {', '.join(sorted(new))}")
        if seconds > MOST_SECONDS:
            trouble.append(f"{seconds:.0f} s")
        wrong += [f"{target.name}: {each} of {data[:80]!r}" for each in trouble]
        (folder / DRAWN).unlink(missing_ok=True)
    return outcomes, wrong


def main(arguments: list[str] | None = None) -> int:
    """Print how often each kind was read, refused, or neither; the exit code is 1 for any of the last."""
    parser = Parser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000, help="of each kind, in one process (default 2000)")
    parser.add_argument("--commands", type=int, default=40, help="of each kind (default 40)")
    parser.add_argument("--seed", type=int, default=0)
    wrong = []
    code = run(lambda options: wrong.extend(_fuzz(options)), parser, arguments)
    return code or (DIFFERENT if wrong else DONE)


def _fuzz(options):
    for name in ("mutations", "commands", "seed"):
        check_count(name, getattr(options, name))
    rows, wrong, rng = [], [], np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        known = targets(Path(temporary))
        for how, count in ((in_process, options.mutations), (as_commands, options.commands)):
            for kind, target in known.items():
                with tempfile.TemporaryDirectory(dir=temporary) as folder:
                    (Path(folder) / "photo.png").write_bytes((Path(temporary) / "photo.png").read_bytes())
                    outcomes, found = how(target, count, Path(folder), rng)
                rows.append(
                    [kind, how.__name__.replace("_", " "), *(outcomes[o] for o in ("value", "refused", "wrong"))]
                )
                wrong += found
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    if most > MOST_BYTES:
        wrong.append(f"a command took {most / 1e9:.1f} GB")
    print(table(["kind", "how", "a value", "refused", "neither"], rows))
    print(
        f"\nThe largest command took {most / 1e9:.2f} GB. {len(wrong)} of these are wrong:"
        if wrong
        else "\nNone is wrong."
    )
    print("\n".join(wrong[:_SHOWN]))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
