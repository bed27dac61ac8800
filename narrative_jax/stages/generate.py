"""Draws candidates for the scenes of a split, or for a user's own."""

from dataclasses import dataclass

from narrative_jax.core.errors import check_count
from narrative_jax.core.files import write_json
from narrative_jax.data.datasets import write_records
from narrative_jax.runs.candidates import draw_candidates, drawer_of
from narrative_jax.runs.directory import Context
from narrative_jax.runs.generator import base_generator, check_generator
from narrative_jax.runs.scenes import check_scenes, some_scenes


@dataclass(frozen=True)
class Options:
    """`per_scene` candidates of the first `scenes` scenes (0: all of a user's file)."""

    split: str
    scenes: int
    per_scene: int
    scene_seed: int = 0


def check(context: Context, options: Options) -> None:
    """Raise InputError for a generator that cannot be built, and scenes that it cannot draw."""
    check_generator(context)
    check_scenes(context, options.split, options.scenes, options.scene_seed)
    check_count("per_scene", options.per_scene, minimum=1)


def run(context: Context, options: Options) -> dict[str, float]:
    """Write the scenes, their candidates, and in notices.json what of the scenes the generator cannot read.

    Raises InputError for scenes that it cannot draw, Stopped between two batches.
    """
    generator, params = base_generator(context)
    most = generator.max_subjects
    scenes, dropped = some_scenes(context.config, options.split, options.scenes, options.scene_seed, most)
    notices = {**generator.not_read(scenes), "dropped_scenes": dropped}
    for kind, found in notices.items():
        if found:
            named = f"{', '.join(found[:10])} ({len(found)} in all)"
            print(f"{context.name}: {kind.replace('_', ' ')}: {named}", flush=True)
    if context.writes:
        write_json(context.folder / "notices.json", notices)
        write_records(context.folder / "scenes", scenes)
    drawer = drawer_of(context, generator)
    draw_candidates(context, context.folder, drawer, params, scenes, options.per_scene, "baseline")
    counts = {kind: len(found) for kind, found in notices.items()}
    return {"scenes": len(scenes), "candidates": len(scenes) * options.per_scene, **counts}
