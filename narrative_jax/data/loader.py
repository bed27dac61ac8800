"""Batches in an order that depends on the seed alone: never on restarts, prefetching or the number of processes."""

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import grain
import numpy as np

from narrative_jax.core.errors import check_count

PREFETCH = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)  # one batch is made while another is trained on


def batches(
    size: int,
    make_batch: Callable[[np.ndarray], Any],
    batch_size: int,
    seed: int,
    start: int = 0,
    rows: np.ndarray | None = None,
) -> Iterator:
    """Endless batches, from batch `start` on, of a data set of `size` elements, shuffled anew in each epoch.

    `make_batch` turns indices, those of the `rows` of the global batch that this process holds (None: of all), into a
    batch; it runs in another thread and must be a pure function of them. Batch k depends on (seed, k) only, and small
    sets go round within one batch. The iterator's `get_state()` is the position consumed, whatever was prefetched;
    `set_state` goes there. Raises InputError for counts below 1.
    """
    check_count("size", size, minimum=1)
    check_count("batch_size", batch_size, minimum=1)
    check_count("start", start)
    mine = slice(None) if rows is None else rows
    # Epoch e is shuffled by seed + e: hashed, so that a neighbouring seed is not the same order one epoch later.
    hashed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    dataset = grain.MapDataset.range(size).shuffle(hashed).repeat().batch(batch_size)
    iterator = iter(dataset.map(itemgetter(mine)).map(make_batch).to_iter_dataset(PREFETCH))
    if start:
        iterator.set_state({"next_index": start})
    return iterator
