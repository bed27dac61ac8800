"""Records that take long to make, in chunks: an interrupted run goes on, and several processes share the work."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from narrative_jax.core import processes
from narrative_jax.core.errors import Stopped
from narrative_jax.data.datasets import finished_chunks, pack_chunks, write_chunk
from narrative_jax.runs.directory import Context


def leave_records(
    context: Context,
    folder: Path,
    name: str,
    record_type: type,
    jobs: Sequence,
    make: Callable[[Sequence], Iterable],
    size: int,
    title: str,
    together: bool = False,
) -> None:
    """Leave what `make` gives for all jobs, `size` at a time, as records in `folder`/`name`.

    Of several processes each makes its share of these chunks, or, where all devices work on one (`together`), writes
    its share. Goes on behind the chunks that an interrupted run finished. Raises Stopped between two.
    """
    chunks, done = folder / "chunks", folder / name
    finished = processes.first_does(title, lambda: None if done.exists() else finished_chunks(chunks))
    if finished is not None:
        for number, part in _unfinished(context, finished, jobs, size, title, together):
            made = make(part)
            if _is_mine(number):
                write_chunk(chunks, number, made)
        processes.wait_for_all(f"{title}: all chunks")
        if processes.is_first():
            pack_chunks(chunks, done, record_type)
    if processes.is_first():
        shutil.rmtree(chunks, ignore_errors=True)
    processes.wait_for_all(f"{title}: done")


def _unfinished(context, finished, jobs, size, title, together) -> Iterator[tuple[int, Sequence]]:
    """The parts that this process has still to do, with a bar; raises Stopped before one."""
    parts = dict(enumerate(jobs[start : start + size] for start in range(0, len(jobs), size)))
    mine = {number: part for number, part in parts.items() if together or _is_mine(number)}
    begun = sum(len(part) for number, part in mine.items() if number in finished)
    total = sum(map(len, mine.values()))
    with tqdm(
        total=total, initial=begun, desc=title, unit="picture", mininterval=1, disable=not processes.is_first()
    ) as bar:
        for number, part in mine.items():
            if number in finished:
                continue
            if processes.any_of(f"{title}: stop", context.stop.requested) if together else context.stop.requested:
                raise Stopped
            yield number, part
            bar.update(len(part))


def _is_mine(chunk):
    return chunk % processes.count() == processes.index()
