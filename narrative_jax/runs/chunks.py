"""Records that take long to make, in chunks: an interrupted run goes on, and several processes share the work."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
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
    """Leave what `make` gives for all jobs, `size` at a time, as records in `folder`/`name`; see `leave_kinds`."""
    kinds = {name: record_type}
    leave_kinds(context, folder, kinds, jobs, lambda part: {name: make(part)}, size, title, together)


def leave_kinds(
    context: Context,
    folder: Path,
    kinds: Mapping[str, type],
    jobs: Sequence,
    make: Callable[[Sequence], Mapping[str, Iterable]],
    size: int,
    title: str,
    together: bool = False,
) -> None:
    """Leave what `make` gives for all jobs, `size` at a time, as records in folders of `folder`, whose `kinds` tell
    their names and types.

    Of several processes each makes its share of these chunks, or, where all devices work on one (`together`), writes
    its share. Goes on behind the chunks that an interrupted run finished. Raises Stopped between two.
    """
    chunks = {name: folder / "chunks" / name for name in kinds}
    if (finished := processes.first_does(title, lambda: _finished(folder, chunks))) is not None:
        for number, part in _unfinished(context, finished, jobs, size, title, together):
            made = make(part)
            for name in kinds if _is_mine(number) else ():
                write_chunk(chunks[name], number, made[name])
        processes.wait_for_all(f"{title}: all chunks")
        for name, kind in kinds.items() if processes.is_first() else ():
            if not (folder / name).exists():
                pack_chunks(chunks[name], folder / name, kind, -(-len(jobs) // size))
    if processes.is_first():
        for path in chunks.values():  # others' may stand beside them
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            (folder / "chunks").rmdir()
    processes.wait_for_all(f"{title}: done")


def _finished(folder, chunks):
    """The chunks that all kinds have, None where nothing is left to do."""
    if all((folder / name).exists() for name in chunks):
        return None
    return sorted(set.intersection(*(set(finished_chunks(path)) for path in chunks.values())))


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
