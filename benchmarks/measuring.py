"""What the benchmarks that stand beside torch share."""

import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from narrative_jax.statistics.intervals import bootstrap


def matmul_rates(size=2048, times=7):
    """float32 GFLOP/s of a product of two square matrices, in XLA and in torch, the best of `times`."""
    ours = jnp.ones((size, size))
    theirs = torch.ones(size, size)
    multiply = jax.jit(jnp.matmul)
    jobs = {"XLA": lambda: multiply(ours, ours).block_until_ready(), "torch": lambda: theirs @ theirs}
    seconds = {name: min(timed(job, 1) for _ in range(times)) for name, job in jobs.items()}
    return {name: 2 * size**3 / s / 1e9 for name, s in seconds.items()}


def timed(job, steps):
    """Seconds of a call, the mean of `steps` after an untimed one (threads of the other side may still spin)."""
    job()
    begin = time.perf_counter()
    for _ in range(steps):
        job()
    return (time.perf_counter() - begin) / steps


def ratio(ours, theirs, seed):
    """Median over the rounds of how many times as fast ours is, with its 95 % interval; from rates of both."""
    ratios = np.divide(ours, theirs)
    found = bootstrap(lambda rounds: np.median(ratios[rounds], -1), len(ratios), 0.95, 2000, seed)
    return f"{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"


def processor():
    """Its name, as Linux tells it."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpuinfo():
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
