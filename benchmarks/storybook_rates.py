"""Pictures a second on one core: drawn, made into training examples, and judged.

OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/storybook_rates.py
"""

import os
import statistics
import time

import numpy as np

from narrative_jax.storybook.datasets import TrainingSet, drawings
from narrative_jax.storybook.oracle import judge
from narrative_jax.storybook.render import render

BATCH, ROUNDS = 256, 7


def main() -> None:
    if os.environ.get("OMP_NUM_THREADS") != "1" or os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        raise SystemExit("set OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1: the rates are of one core")
    facts, drawing = drawings("tune", range(BATCH))
    pictures = render(drawing)
    noisy = np.clip(pictures + np.random.default_rng(0).normal(0, 0.1, pictures.shape), -1, 1)
    examples = TrainingSet("raw", BATCH)
    jobs = {
        "render": lambda: render(drawing),
        "training example": lambda: examples.batch(range(BATCH)),
        "judge true pictures": lambda: judge(pictures, facts),
        "judge noisy pictures": lambda: judge(noisy, facts),
    }
    for job in jobs.values():
        job()  # fills the caches of masks
    rates = {name: [] for name in jobs}
    for _ in range(ROUNDS):  # in turn, so that the machine's moods fall on all alike
        for name, job in jobs.items():
            begin = time.perf_counter()
            job()
            rates[name].append(BATCH / (time.perf_counter() - begin))
    print(f"{'pictures a second':<24}{'median':>8}{'min':>8}{'max':>8}")
    for name, values in rates.items():
        print(f"{name:<24}{statistics.median(values):>8.0f}{min(values):>8.0f}{max(values):>8.0f}")


if __name__ == "__main__":
    main()
