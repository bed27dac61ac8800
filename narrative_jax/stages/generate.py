"""Draws candidates for the scenes of a split, or for a user's own: with the base, or with what an entry trained."""

from dataclasses import dataclass, field
from typing import Any

from narrative_jax.core.errors import check_count, check_name
from narrative_jax.core.files import write_json
from narrative_jax.data.datasets import write_records
from narrative_jax.runs.backgrounds import as_trained, check_own_shown
from narrative_jax.runs.candidates import draw_candidates, drawer_of
from narrative_jax.runs.directory import Context
from narrative_jax.runs.generator import base_generator, check_generator, preset_of, sampling_of
from narrative_jax.runs.scenes import check_scenes, some_scenes
from narrative_jax.runs.trained import check_trained, generator_entries, with_trained

INPUTS = ("trained",)


@dataclass(frozen=True)
class Options:
    """`per_scene` candidates of the first `scenes` scenes (0: all of a user's file).

    They are drawn with what the entry `trained` left, whose subjects are shown as it learned from them, "" with the
    base; `sampling` are options of drawing that differ from the config's.
    """

    split: str
    scenes: int
    per_scene: int
    scene_seed: int = 0
    trained: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)


def check(context: Context, options: Options) -> None:
    """Raise InputError for a generator that cannot be built, and scenes that it cannot draw."""
    check_generator(context)
    check_scenes(context, options.split, options.scenes, options.scene_seed)
    check_count("per_scene", options.per_scene, minimum=1)
    sampling_of(context, **options.sampling).check(preset_of(context).subject_guidance)
    if options.trained:
        check_name("train entry of the generator", options.trained, generator_entries(context.config))
        if context.config.scenes:
            check_own_shown(context, [options.trained])


def run(context: Context, options: Options) -> dict[str, float]:
    """Write the scenes, their candidates, and in notices.json what of the scenes the generator cannot read.

    Raises InputError for scenes that it cannot draw, Stopped between two batches.
    """
    generator, params = base_generator(context)
    most = generator.max_subjects
    scenes, dropped = some_scenes(context.config, options.split, options.scenes, options.scene_seed, most)
    if options.trained:
        check_trained(context.of(options.trained), "draw with another entry")
        scenes = as_trained(context, [options.trained], scenes)[options.trained]
        generator, params = with_trained(context, options.trained, generator, params)
    notices = {**generator.not_read(scenes), "dropped_scenes": dropped}
    for kind, found in notices.items():
        if found:
            named = f"{', '.join(found[:10])} ({len(found)} in all)"
            print(f"{context.name}: {kind.replace('_', ' ')}: {named}", flush=True)
    if context.writes:
        write_json(context.folder / "notices.json", notices)
        write_records(context.folder / "scenes", scenes)
    drawer, name = drawer_of(context, generator, **options.sampling), options.trained or "baseline"
    draw_candidates(context, context.folder, drawer, params, scenes, options.per_scene, name)
    counts = {kind: len(found) for kind, found in notices.items()}
    return {"scenes": len(scenes), "candidates": len(scenes) * options.per_scene, **counts}
