"""Pictures that show how far a generator is in its training."""

from functools import cached_property

import numpy as np

from narrative_jax.core.files import write_bytes
from narrative_jax.core.images import fit_image, grid, png
from narrative_jax.core.mesh import make_mesh
from narrative_jax.core.types import Params
from narrative_jax.generators.base import Generator
from narrative_jax.generators.sampling import candidate_seed, drawer_for
from narrative_jax.runs.backgrounds import as_trained
from narrative_jax.runs.collected import COLLECT
from narrative_jax.runs.directory import SAMPLES, Context
from narrative_jax.runs.generator import sampling_of
from narrative_jax.runs.lineage import made_from
from narrative_jax.runs.scenes import collected_scenes, some_scenes

_SCENES, _PER_SCENE = 6, 2  # in a grid


class Samples:
    """Draws the same few scenes from the same noise each time: a row a scene, its subjects first."""

    def __init__(self, context: Context, generator: Generator):
        self.context, self.generator = context, generator

    def draw(self, step: int, params: Params) -> None:
        """Leave samples/step-STEP.png of the whole tree of weights. Raises InputError where the disk refuses."""
        scenes, jobs, drawer = self._ready
        pictures = np.concatenate(list(drawer.draw(drawer.place(params), jobs)))
        rows = []
        for row, scene in enumerate(scenes):
            portraits = [fit_image(subject.images[0], pictures.shape[1]) for subject in scene.subjects]
            blank = np.full_like(pictures[:1], 255)
            portraits += list(blank) * (self.generator.max_subjects - len(portraits))
            rows.append([*portraits, *pictures[_PER_SCENE * row : _PER_SCENE * (row + 1)]])
        if self.context.writes:
            (self.context.folder / SAMPLES).mkdir(exist_ok=True)
            write_bytes(self.context.folder / SAMPLES / f"step-{step:06d}.png", png(grid(rows, scale=3)))

    @property
    def _scenes(self):
        """Tune scenes; of people's own pictures the first ones that it learns from."""
        config, most = self.context.config, self.generator.max_subjects
        if collected := made_from(config, self.context.name, COLLECT):
            return collected_scenes(self.context, collected, _SCENES, most, minimum=1)
        return some_scenes(config, "tune", _SCENES, 0, most)[0]

    @cached_property
    def _ready(self):
        config = self.context.config
        scenes = self._scenes
        scenes = as_trained(self.context, [self.context.name], scenes)[self.context.name]
        jobs = [
            (scene, candidate_seed(config.seed, scene.id, place)) for scene in scenes for place in range(_PER_SCENE)
        ]
        mesh = make_mesh(config.mesh)
        return scenes, jobs, drawer_for(self.generator, sampling_of(self.context), len(jobs), mesh)
