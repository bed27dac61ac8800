"""Pictures of the embedded generator."""

from collections.abc import Sequence

import numpy as np

from narrative_jax.core.mesh import make_mesh
from narrative_jax.core.records import Scene
from narrative_jax.generators.sampling import Drawer, Sampling, candidate_seed
from narrative_jax.runs.tables import Tables


def draw_embedded(
    scenes: Sequence[Scene], per_scene: int, sampling: Sampling | None = None, weights: str = ""
) -> np.ndarray:
    """`per_scene` pictures of each scene, u8[scenes, per_scene, h, w, 3], from the noise that runs of seed 0 have.

    `weights` may be of another transformer than the one that ships. Raises InputError.
    """
    preset = Tables().presets["storybook"]
    generator, params = preset.load(preset.Options(weights), seed=0)
    drawer = Drawer(generator, sampling or Sampling(), make_mesh({"data": 1, "fsdp": -1}))
    jobs = [(scene, candidate_seed(0, scene.id, place)) for scene in scenes for place in range(per_scene)]
    images = np.concatenate(list(drawer.draw(drawer.place(params), jobs)))
    return images.reshape(len(scenes), per_scene, *images.shape[1:])
