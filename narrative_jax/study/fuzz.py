"""Damages what people bring and looks whether each reader says so: `python -m narrative_jax.study.fuzz`.

Files and config overrides get flipped, cut and doubled bytes and swapped fields. In one process, each reader makes a
value of them or raises InputError, nothing else; as whole commands they end with 0 or 2, without a traceback, leave
nothing half-written, in bounded time and memory. Examples of what does not are printed, and the exit code is 1.
"""

import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from narrative_jax.core.command import BAD_INPUT, DONE, Parser, run
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.markdown import table
from narrative_jax.study.damaged import DRAWN, Target, mutations, put, targets

DIFFERENT = 1
MOST_BYTES = 1.5e9  # of a command
_SHOWN = 5
# A process's peak counts what it was forked from: who measures is small, and forks.
_MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@dataclass
class Found:
    """How many damaged forms gave a `value`, were `refused`, or neither; what is wrong; a command's extremes."""

    counts: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0
    size: int = 0  # bytes in memory


def in_process(target: Target, count: int, folder: Path, rng: np.random.Generator) -> Found:
    """What the target's reader makes of damaged forms."""
    found = Found()
    for data in tqdm(mutations(target.seed, count, rng), target.name, count, delay=5):
        path = put(target, data, folder)
        try:
            target.read(path)
            found.counts["value"] += 1
        except InputError:
            found.counts["refused"] += 1
        except Exception as error:  # what this looks for
            found.counts["neither"] += 1
            found.wrong.append(f"{target.name}: {type(error).__name__}: {str(error)[:200]} of {data[:80]!r}")
    return found


def as_commands(target: Target, count: int, folder: Path, rng: np.random.Generator, most_seconds: float = 20) -> Found:
    """What commands make of them, each in `most_seconds` at most."""
    found = Found()
    for data in tqdm(mutations(target.seed, count, rng), f"{target.name}, commands", count, delay=5):
        command = target.command(put(target, data, folder))
        before, start = {file.name for file in folder.iterdir()}, time.monotonic()
        code, said, size = measured(command)
        seconds, left = time.monotonic() - start, {file.name for file in folder.iterdir()} - before
        found.counts[{DONE: "value", BAD_INPUT: "refused"}.get(code, "neither")] += 1
        found.seconds, found.size = max(found.seconds, seconds), max(found.size, size)
        trouble = {
            f"exit {code}, {said[-300:]}": code not in (DONE, BAD_INPUT) or "Traceback" in said,
            f"left {', '.join(sorted(left))}": left - ({DRAWN} if code == DONE else set()),
            f"{seconds:.0f} s": seconds > most_seconds,
            f"{size / 1e9:.1f} GB": size > MOST_BYTES,
        }
        found.wrong += [f"{target.name}: {told} of {data[:80]!r}" for told, is_so in trouble.items() if is_so]
        (folder / DRAWN).unlink(missing_ok=True)
    return found


def measured(command: list[str]) -> tuple[int, str, int]:
    """The exit code of `python -m command`, its words on stderr and the most bytes that it had in memory."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = [sys.executable, "-c", _MEASURE, sys.executable, "-m", *command]
        code, size = subprocess.run(process, stdout=subprocess.PIPE, stderr=said, check=True).stdout.split()
        said.seek(0)
        return int(code), said.read(), int(size)


def main(arguments: list[str] | None = None) -> int:
    """Print how often each kind was read, refused, or neither; the exit code is 1 for any of the last."""
    parser = Parser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000, help="of each kind, in one process (default 2000)")
    parser.add_argument("--commands", type=int, default=40, help="of each kind (default 40)")
    parser.add_argument("--seconds", type=int, default=20, help="that a command may take (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    wrong = []
    code = run(lambda options: wrong.extend(_fuzz(options)), parser, arguments)
    return code or (DIFFERENT if wrong else DONE)


def _fuzz(options):
    for name in ("mutations", "commands", "seconds", "seed"):
        check_count(name, getattr(options, name))
    rows, wrong, rng = [], [], np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        known = targets(Path(temporary))
        timed = partial(as_commands, most_seconds=options.seconds)
        kinds = {"in process": (in_process, options.mutations), "as commands": (timed, options.commands)}
        for name, (how, count) in kinds.items():
            for kind, target in known.items():
                with tempfile.TemporaryDirectory(dir=temporary) as folder:
                    for photo in Path(temporary).glob("*.png"):
                        (Path(folder) / photo.name).write_bytes(photo.read_bytes())
                    target.read(put(target, target.seed, Path(folder)))  # whole, it is read
                    found = how(target, count, Path(folder), rng)
                counts = [found.counts[outcome] for outcome in ("value", "refused", "neither")]
                extremes = [f"{found.seconds:.0f}", f"{found.size / 1e9:.2f}"] if found.size else ["", ""]
                rows.append([kind, name, *counts, *extremes])
                wrong += found.wrong
    print(table(["kind", "how", "a value", "refused", "neither", "longest, s", "largest, GB"], rows))
    print(f"\nWrong: {len(wrong)}.", *wrong[:_SHOWN], sep="\n")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
