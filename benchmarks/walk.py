"""How much of the package a reader passes on two walks: a preference pair from the disk to its gradient, and a picture
from the disk to its score.

    python benchmarks/walk.py

Runs `configs/adpo.py:tiny`, beside it a score by CLIP's cosine, and prints each file with how many of its functions
are entered and how many lines these have. A walk begins where the step, or the reward, asks for the record, and ends
where the gradient, or the score, is there; everything is made afresh, so that nothing is passed over because it was
remembered. `--setting-up` begins where the entry does, so that all that is built first is counted too.
"""

import argparse
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType

import narrative_jax
from narrative_jax import pipeline
from narrative_jax.core.config import load

ROOT = Path(narrative_jax.__file__).parent
# Where each walk begins and ends: the first call of a function of these names, and its end, or another's.
WALKS = {
    "a picture, from the disk to its score": ("by_clip", {"__getitem__"}, "score_images"),
    "a preference pair, from the disk to its gradient": ("align", {"make_batch"}, "gradients"),
}
SETTING_UP = {"stages/train.py run", "stages/score.py run"}


class Walk:
    """Notes the package's functions that are entered in any thread, from the first call of one of `start` on, names or
    "FILE NAME", until the function called `end` returns.
    """

    def __init__(self, start: set[str], end: str):
        self.start, self.end, self.codes, self.state = start, end, {}, "before"

    def __call__(self, frame, event, argument):
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(str(ROOT)):
            return
        place = f"{code.co_filename.removeprefix(f'{ROOT}/')} {code.co_name}"
        if event == "call" and self.state == "before" and {code.co_name, place} & self.start:
            self.state = "on the way"
        if event == "call" and self.state == "on the way":
            self.codes[code] = None
        if event == "return" and self.state == "on the way" and code.co_name == self.end:
            self.state = "there"

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside the block."""
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def lines_of(code: CodeType) -> set[int]:
    """The lines of a function, from its head to its last."""
    last = max(line for _, _, line in code.co_lines() if line)
    return set(range(code.co_firstlineno, last + 1))


def table(codes) -> list[tuple[str, int, int]]:
    """File, functions and lines, in the order in which the files are entered."""
    files = {}
    for code in codes:
        functions, lines = files.setdefault(Path(code.co_filename).relative_to(ROOT).as_posix(), ([], set()))
        functions.append(code)
        lines |= lines_of(code)
    return [(name, len(functions), len(lines)) for name, (functions, lines) in files.items()]


def main() -> None:
    """Run, and print a table for each walk."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--setting-up", action="store_true", help="count what is built first, too")
    options = parser.parse_args()
    config = load("configs/adpo.py:tiny")
    clip = {"reward": "clip_cosine", "clip_cosine": {"weights": "", "size": "storybook"}}
    config.by_clip = {"stage": "score", "source": "generate", "batch_size": 8, **clip}
    config.stages = ("reference", "calibrate", "generate", "score", "by_clip", "screen", "align")
    config.align.sample_every = 0
    with tempfile.TemporaryDirectory() as folder:
        for entry in config.stages:
            found = {title: walk for title, walk in WALKS.items() if walk[0] == entry}
            for title, (_, start, end) in found.items():
                walk = Walk(SETTING_UP if options.setting_up else start, end)
                with walk.noted():
                    pipeline.run(config, folder, entry)
                rows = table(walk.codes)
                print(f"\n{title}: {len(rows)} files, {sum(row[2] for row in rows)} lines\n")
                print("| file | functions | lines |\n| --- | ---: | ---: |")
                print(*(f"| {name} | {functions} | {lines} |" for name, functions, lines in rows), sep="\n", flush=True)
            if not found:
                pipeline.run(config, folder, entry)


if __name__ == "__main__":
    main()
