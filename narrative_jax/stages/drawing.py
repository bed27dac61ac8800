"""Drawing many pictures in a stage: chunk by chunk, so that a killed run goes on where it was."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from narrative_jax.core.errors import Stopped
from narrative_jax.core.records import Candidate, Scene
from narrative_jax.core.types import Params
from narrative_jax.data.datasets import finished_chunks, pack_chunks, write_chunk
from narrative_jax.generators.sampling import Drawer, candidate_seed
from narrative_jax.stages.base import Context


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
    chunks, done = folder / "chunks", folder / "candidates"
    if not done.exists():
        _draw_chunks(context, chunks, drawer, params, scenes, per_scene, generator_name)
        pack_chunks(chunks, done, Candidate)
    shutil.rmtree(chunks, ignore_errors=True)


def _draw_chunks(context, chunks, drawer, params, scenes, per_scene, generator_name):
    size, seed = drawer.sampling.batch_size, context.config.seed
    jobs = [(scene, place) for scene in scenes for place in range(per_scene)]
    finished, params = finished_chunks(chunks), drawer.place(params)
    begun = min(len(finished) * size, len(jobs))
    title = f"{context.name} {generator_name}"
    with tqdm(total=len(jobs), initial=begun, desc=title, unit="picture", mininterval=1) as bar:
        for number, start in enumerate(range(0, len(jobs), size)):
            if number in finished:
                continue
            if context.stop.requested:
                raise Stopped
            part = [
                (scene, place, candidate_seed(seed, scene.id, place)) for scene, place in jobs[start : start + size]
            ]
            (images,) = drawer.draw(params, [(scene, drawn_from) for scene, _, drawn_from in part])
            records = [
                Candidate(f"{scene.id}/{place}", scene.id, image, drawn_from, generator_name)
                for (scene, place, drawn_from), image in zip(part, images, strict=True)
            ]
            write_chunk(chunks, number, records)
            bar.update(len(part))
