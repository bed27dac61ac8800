"""Worker processes for pure numpy work. They import what they are asked to run and nothing above it, no JAX."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from threading import Thread
from types import ModuleType
from typing import Any

_FOR_PARENT = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, or a scheduler, sends them to the whole process group


def run_all(function: Callable, calls: Sequence[tuple]) -> list[Any]:
    """What `function` of a module returns for each tuple of arguments, in order, worked out on all cores."""
    main, pool = sys.modules["__main__"], _pool()
    # A spawned worker imports the main module, which would bring JAX or run a script once more.
    sys.modules["__main__"] = ModuleType("__main__")
    # From workers that start now, until `_begin`; not before the pool is made, whose helper lets signals through again.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_PARENT)
    try:
        jobs = [pool.submit(function, *arguments) for arguments in calls]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        sys.modules["__main__"] = main
    return [job.result() for job in jobs]


@cache
def _pool():
    # Spawned, since JAX runs threads, and a fork of a process with threads may hang.
    return ProcessPoolExecutor(_num_cores(), multiprocessing.get_context("spawn"), _begin)


def _num_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _begin():
    """Runs in a worker before it imports numpy."""
    # A worker a core: with threads of their own they would be in one another's way.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    os.setpgrp()
    for number in _FOR_PARENT:
        signal.signal(number, signal.SIG_IGN)  # forgets one that came while it was held
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_PARENT)
    for number in _FOR_PARENT:
        signal.signal(number, signal.SIG_DFL)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """A worker whose parent was killed would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
