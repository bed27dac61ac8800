"""The candidates that an entry left or leaves: drawn, or collected."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from narrative_jax.core.mesh import make_mesh
from narrative_jax.core.records import Candidate, Scene
from narrative_jax.core.types import Params
from narrative_jax.data.datasets import Records, open_records
from narrative_jax.generators.base import Generator
from narrative_jax.generators.sampling import Drawer, candidate_seed
from narrative_jax.runs.chunks import leave_records
from narrative_jax.runs.directory import Context
from narrative_jax.runs.generator import sampling_of

REFINE = "refine"  # the stage that takes pictures over, and drops some


def pictures_entry(config: Mapping[str, Any], name: str) -> str:
    """The entry of a config whose candidates an entry is about: itself, or what it screens or scores."""
    while (entry := config[name])["stage"] != REFINE and entry.get("source", ""):
        name = entry["source"]
    return name


def open_candidates(context: Context, name: str) -> Records:
    """The candidates that an entry left. Raises InputError."""
    return open_records(context.path(name) / "candidates", Candidate)


def drawer_of(context: Context, generator: Generator, **changes: Any) -> Drawer:
    """What draws over the config's mesh, as the config says but for `changes`. Raises InputError."""
    return Drawer(generator, sampling_of(context, **changes), make_mesh(context.config.mesh))


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
    size = drawer.sampling.batch_size
    leave_records(context, folder, "candidates", Candidate, jobs, draw, size, title, together=True)


def open_drawn(folder: Path, per_scene: int) -> tuple[np.ndarray, np.ndarray]:
    """What `draw_candidates` left there: pictures u8[scenes, per_scene, h, w, 3] and their ids [scenes, per_scene]."""
    records = list(open_records(folder / "candidates", Candidate))
    images = np.stack([record.image for record in records])
    ids = np.array([record.id for record in records], object).reshape(-1, per_scene)
    return images.reshape(*ids.shape, *images.shape[1:]), ids


def draw_arm(
    context: Context,
    name: str,
    generator: Generator,
    params: Params,
    scenes: Sequence[Scene],
    per_scene: int,
    changes: Mapping[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and ids, as `open_drawn` has them, of the arm `name` of the context's entry, drawn as the config says
    but for `changes`, unless an earlier run drew them. Raises as `draw_candidates`.
    """
    drawer = drawer_of(context, generator, **changes)
    draw_candidates(context, context.folder / name, drawer, params, scenes, per_scene, name)
    return open_drawn(context.folder / name, per_scene)
