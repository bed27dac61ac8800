"""Pictures of the embedded generator or another, and how long drawing takes."""

import time
from collections.abc import Sequence

import numpy as np

from narrative_jax.core.mesh import make_mesh
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.generators.base import Generator
from narrative_jax.generators.flow_presets import FlowOptions, FlowPreset
from narrative_jax.generators.sampling import Drawer, Sampling, candidate_seed
from narrative_jax.models.shipped import RANDOM
from narrative_jax.runs.tables import Tables

_USUAL = Sampling()


def embedded_generator(weights: str = "") -> tuple[Generator, Params]:
    """The embedded one, or with `weights` of a transformer that does not ship. Raises InputError."""
    preset = Tables().presets["storybook"]
    return preset.load(preset.Options(weights), seed=0)


def draw(
    generator: Generator, params: Params, scenes: Sequence[Scene], per_scene: int, sampling: Sampling = _USUAL
) -> np.ndarray:
    """`per_scene` pictures of each scene, u8[scenes, per_scene, h, w, 3], from the noise that runs of seed 0 have."""
    drawer = Drawer(generator, sampling, make_mesh({"data": 1, "fsdp": -1}))
    jobs = [(scene, candidate_seed(0, scene.id, place)) for scene in scenes for place in range(per_scene)]
    images = np.concatenate(list(drawer.draw(drawer.place(params), jobs)))
    return images.reshape(len(scenes), per_scene, *images.shape[1:])


def seconds_a_picture(preset: FlowPreset, sampling: Sampling) -> float:
    """What drawing takes, of whole batches: the median of five after one that compiles. Raises InputError."""
    generator, params = preset.load(FlowOptions(RANDOM), 0)
    drawer = Drawer(generator, sampling, make_mesh({"data": 1, "fsdp": -1}))
    placed, jobs = drawer.place(params), [(scene, 0) for scene in storybook_scenes("tune", sampling.batch_size)]
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        _ = list(drawer.draw(placed, jobs))
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:])) / sampling.batch_size
