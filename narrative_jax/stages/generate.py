"""Draws candidates for the scenes of a split, or for a user's own."""

from narrative_jax.core.errors import check_count
from narrative_jax.core.files import write_json
from narrative_jax.core.mesh import make_mesh
from narrative_jax.data.datasets import write_records
from narrative_jax.generators.sampling import Drawer, Sampling
from narrative_jax.stages.base import Context
from narrative_jax.stages.common import base_generator, check_generator, check_scenes, some_scenes
from narrative_jax.stages.drawing import draw_candidates


def check(config, entry) -> None:
    """Raise InputError for a generator that cannot be built, and scenes that it cannot draw."""
    check_generator(config)
    check_scenes(config, entry)
    check_count("per_scene", entry.per_scene, minimum=1)


def run(context: Context) -> dict[str, float]:
    """Write the scenes, their candidates, and in notices.json what of the scenes the generator cannot read.

    Raises InputError for scenes that it cannot draw, Stopped between two batches.
    """
    entry, config = context.entry, context.config
    generator, params = base_generator(context)
    scenes, dropped = some_scenes(config, entry.split, entry.scenes, entry.scene_seed, generator.max_subjects)
    unknown, truncated = generator.not_read([scene.prompt for scene in scenes])
    notices = {"unknown_words": unknown, "truncated_prompts": truncated, "dropped_scenes": dropped}
    for kind, found in notices.items():
        if found:
            print(
                f"{context.name}: {kind.replace('_', ' ')}: {', '.join(found[:10])} ({len(found)} in all)", flush=True
            )
    write_json(context.folder / "notices.json", notices)
    write_records(context.folder / "scenes", scenes)
    drawer = Drawer(generator, Sampling(**config.sampling), make_mesh(config.mesh))
    draw_candidates(context, context.folder, drawer, params, scenes, entry.per_scene, "baseline")
    counts = {kind: len(found) for kind, found in notices.items()}
    return {"scenes": len(scenes), "candidates": len(scenes) * entry.per_scene, **counts}
