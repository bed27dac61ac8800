"""The candidates that an entry left or leaves: drawn, or collected."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.core.mesh import make_mesh
from narrative_jax.core.records import Candidate, Scene
from narrative_jax.core.types import Params
from narrative_jax.data.datasets import Records, finished_chunks, open_records, pack_chunks, write_chunk
from narrative_jax.data.own_pairs import find_pairs
from narrative_jax.data.photos import picture_size
from narrative_jax.data.sources import find_pictures
from narrative_jax.generators.base import Generator
from narrative_jax.generators.sampling import Drawer, candidate_seed
from narrative_jax.runs.directory import Context
from narrative_jax.runs.generator import sampling_of


def pictures_entry(context: Context, name: str) -> str:
    """The entry whose candidates an entry is about: itself, or what it screens or scores."""
    while source := context.config[name].get("source", ""):
        name = source
    return name


def open_candidates(context: Context, name: str) -> Records:
    """The candidates that an entry left. Raises InputError."""
    return open_records(context.path(name) / "candidates", Candidate)


def draw_candidates(
    context: Context,
    folder: Path,
    drawer: Drawer,
    params: Params,
    scenes: Sequence[Scene],
    per_scene: int,
    generator_name: str,
) -> None:
    """Leave `per_scene` candidates of each scene in `folder`/candidates, in order.

    The noise of candidate k of a scene follows from the config's seed, so generators are compared on the same noise.
    Raises Stopped between two batches.
    """
    seed = context.config.seed
    jobs = [(scene, place, candidate_seed(seed, scene.id, place)) for scene in scenes for place in range(per_scene)]

    placed = cache(lambda: drawer.place(params))  # once there is something to draw

    def draw(part):
        (images,) = drawer.draw(placed(), [(scene, drawn_from) for scene, _, drawn_from in part])
        return [
            Candidate(f"{scene.id}/{place}", scene.id, image, drawn_from, generator_name)
            for (scene, place, drawn_from), image in zip(part, images, strict=True)
        ]

    title = f"{context.name} {generator_name}"
    leave_records(context, folder, "candidates", Candidate, jobs, draw, drawer.sampling.batch_size, title)


def draw_arm(
    context: Context,
    name: str,
    generator: Generator,
    params: Params,
    scenes: Sequence[Scene],
    per_scene: int,
    changes: Mapping[str, Any],
) -> list[Candidate]:
    """The candidates of the arm `name` of the context's entry, drawn as the config says but for `changes`, unless an
    earlier run drew them. Raises as `draw_candidates`.
    """
    drawer = Drawer(generator, sampling_of(context, **changes), make_mesh(context.config.mesh))
    draw_candidates(context, context.folder / name, drawer, params, scenes, per_scene, name)
    return list(open_records(context.folder / name / "candidates", Candidate))


def leave_records(
    context: Context,
    folder: Path,
    name: str,
    record_type: type,
    jobs: Sequence,
    make: Callable[[Sequence], Iterable],
    size: int,
    title: str,
) -> None:
    """Leave what `make` gives for all jobs, `size` at a time, as records in `folder`/`name`.

    Goes on behind the chunks that an interrupted run finished. Raises Stopped between two.
    """
    chunks, done = folder / "chunks", folder / name
    if not done.exists():
        for number, part in _unfinished(context, chunks, jobs, size, title):
            write_chunk(chunks, number, make(part))
        pack_chunks(chunks, done, record_type)
    shutil.rmtree(chunks, ignore_errors=True)


def _unfinished(context, chunks, jobs, size, title) -> Iterator[tuple[int, Sequence]]:
    """The parts that are still to do, with a bar; raises Stopped before one."""
    finished = finished_chunks(chunks)
    begun = min(len(finished) * size, len(jobs))
    with tqdm(total=len(jobs), initial=begun, desc=title, unit="picture", mininterval=1) as bar:
        for number, start in enumerate(range(0, len(jobs), size)):
            if number in finished:
                continue
            if context.stop.requested:
                raise Stopped
            part = jobs[start : start + size]
            yield number, part
            bar.update(len(part))


def check_collected(context: Context, name: str, least: int) -> None:
    """Raise InputError for pictures of a collect entry that a generator cannot learn from, and for nothing but ties.

    A side below `least` pixels is too small: enlarged, it teaches blur.
    """
    section = context.config[name]
    own = section.get("pictures", None) is None
    policy = section.get("damaged_policy", "stop")
    found = find_pairs(section["preferences"], policy) if own else None
    if found and all(preference.tie for preference in found.preferences):
        remedy = "give some that prefer one picture"
        raise InputError(f"the preferences of {name}", "all of them are ties", remedy)
    files = [file for *_, file in (found.pictures if own else find_pictures(section["pictures"], policy)[0])]
    for file in files:
        height, width = picture_size(file)
        if min(height, width) < least:
            given, rule = f"{file} of {height} × {width} pixels", f"the generator draws {least} × {least}"
            raise InputError(given, f"{rule}: enlarged, it would teach blur", "give it larger, or leave its pair out")
