"""What a run trained, ready to draw."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.mesh import make_mesh
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.data.backgrounds import Masks, as_shown
from narrative_jax.data.sources import Portraits, own_scene
from narrative_jax.generators.base import Generator
from narrative_jax.generators.sampling import Sampling, candidate_seed, drawer_for
from narrative_jax.runs.backgrounds import background_trained_on
from narrative_jax.runs.directory import Context, read_config
from narrative_jax.runs.generator import base_generator, sampling_of
from narrative_jax.runs.tables import Tables
from narrative_jax.runs.trained import check_trained, generator_entries, trained_generator, with_lora_file

BASELINE = "baseline"  # the generator that a run began with


@dataclass(frozen=True)
class Painter:
    """A generator with its weights, ready to draw; `sampling` is what `draw` does unless told otherwise.

    `background` takes subjects out of theirs where it learned from such.
    """

    generator: Generator
    params: Params
    sampling: Sampling
    background: Masks | None = None
    _drawers: dict = field(default_factory=dict, repr=False)

    def draw(self, prompt: str, portraits: Portraits = (), count: int = 4, seed: int = 0, **sampling) -> np.ndarray:
        """Pictures u8[count, h, w, 3] of a prompt that names the characters in the order of their portraits.

        A portrait is a picture file, a PIL picture or u8[h, w, 3], of any size. The same seed gives the same noise with
        every generator. `sampling` sets num_steps, guidance_scale, subject_guidance_scale or sampler. Raises
        InputError.
        """
        return self.draw_scene(own_scene(prompt, portraits), count, seed, **sampling)

    def draw_scene(self, scene: Scene, count: int = 4, seed: int = 0, **sampling) -> np.ndarray:
        """`draw` of a scene; with a run's seed from the same noise as in its evaluation.

        Subjects without masks, in a run that cut them out by given ones, should stand on white.
        """
        check_count("count", count, minimum=1)
        slots = self.generator.max_subjects
        if len(scene.subjects) > slots:
            raise InputError(f"{len(scene.subjects)} portraits", f"this generator takes {slots}", "give fewer")
        scene = as_shown(scene, self.background) if self.background else scene
        drawer = self._drawer(count, sampling)
        jobs = [(scene, candidate_seed(seed, scene.id, place)) for place in range(count)]
        return np.concatenate(list(drawer.draw(drawer.place(self.params), jobs)))

    def _drawer(self, count, changes):
        key = count, *sorted(changes.items())
        if key not in self._drawers:
            # Not the run's mesh, which this machine need not have; weights are spread, so that large ones fit.
            mesh = make_mesh({"data": 1, "fsdp": -1})
            self._drawers[key] = drawer_for(self.generator, self.sampling.changed(**changes), count, mesh)
        return self._drawers[key]


def is_lora(entry: str) -> bool:
    """Whether this is the path of a LoRA file or of a folder, not a name."""
    return bool(Path(entry).suffix) or Path(entry).is_dir()


def open_painter(run: str | Path, entry: str, tables: Tables | None = None) -> Painter:
    """The generator of a run directory as its train entry `entry` left it ("": the last).

    Entry "baseline" is what the run began with; one that `is_lora`, unless the run has it by that name, goes on top of
    that. Raises InputError where there is no such run or entry, or it has not finished.
    """
    config = read_config(run)
    entries = [BASELINE, *generator_entries(config)]
    entry = entry or entries[-1]
    if entry not in entries and is_lora(entry):
        base = open_painter(run, BASELINE, tables)
        return Painter(*with_lora_file(Path(entry), base.generator, base.params), base.sampling)
    check_name("entry", entry, entries)
    context = Context(config, entry, Path(run), tables=tables or Tables())
    if entry == BASELINE:
        return Painter(*base_generator(context), sampling_of(context))
    check_trained(context, f"take entry {BASELINE!r}")
    return Painter(*trained_generator(context, entry), sampling_of(context), background_trained_on(context, entry))
