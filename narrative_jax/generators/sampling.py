"""Draws pictures with any generator: noise, rollout and decoder in one jitted call."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from narrative_jax.core.errors import check_count, check_name
from narrative_jax.core.images import to_uint8
from narrative_jax.core.mesh import (
    batch_sharding,
    check_batch,
    devices_of_batch,
    placed_batch,
    replicated,
    spread_weights,
    traced_on,
)
from narrative_jax.core.options import names_of
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.diffusion.samplers import METHODS
from narrative_jax.generators.base import Generator
from narrative_jax.generators.rollout import Branch, branches_of, check_guidance, rollout


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn; the defaults are the embedded generator's best.

    `guidance_scale` is of the text, `subject_guidance_scale` of the subjects (Brooks et al. 2023, eq. 3), 1.0 is off;
    None is the text's for a generator that was trained for it, off for others. Equal ones need two predictions a step,
    different ones three.
    """

    num_steps: int = 8
    sampler: str = "euler"
    guidance_scale: float = 2.5
    subject_guidance_scale: float | None = 1.0
    batch_size: int = 64

    def __post_init__(self):
        check_count("num_steps", self.num_steps, minimum=1)
        check_name("sampler", self.sampler, METHODS)
        check_count("batch_size", self.batch_size, minimum=1)
        check_guidance(self.guidance_scale, self.subject_guidance_scale)

    def changed(self, **changes: Any) -> "Sampling":
        """A copy with other values. Raises InputError for unknown names, and for values as the class does."""
        for name in changes:
            check_name("option of sampling", name, names_of(Sampling))
        return replace(self, **changes)

    def branches(self, subject_guidance: bool) -> list[Branch]:
        """What guidance compares with, see `rollout.guided_velocity`; the generator was trained for it or not."""
        return branches_of(self.guidance_scale, self.subject_guidance_scale, subject_guidance)

    def check(self, subject_guidance: bool) -> None:
        """Raise InputError for guidance on subjects with a generator that never saw scenes without them."""
        check_guidance(self.guidance_scale, self.subject_guidance_scale, subject_guidance)


def candidate_seed(seed: int, scene_id: str, place: int) -> int:
    """The seed of a scene's candidate number `place`: the same picture in whatever order or part it is drawn."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{scene_id}/{place}".encode()).digest()[:4])


class Drawer:
    """Draws batches of always the same size, so that it compiles once.

    `run` is what it compiles: (weights but encoders', seeds u32[b], conditioning) -> images f32[b, h, w, 3].
    Raises InputError for a batch off the mesh, and for guidance that the generator was not trained for.
    """

    def __init__(self, generator: Generator, sampling: Sampling, mesh: Mesh):
        check_batch("batch_size", sampling.batch_size, mesh)
        sampling.check(generator.subject_guidance)
        self.generator, self.sampling, self.mesh = generator, sampling, mesh
        everywhere, batch = replicated(mesh), batch_sharding(mesh)
        run = _drawing(generator, sampling, mesh)
        self.run = jax.jit(run, in_shardings=(None, batch, batch), out_shardings=everywhere)

    def place(self, params: Params) -> Params:
        """The weights spread over the mesh as `draw` wants them; those of encoders, which it does not run, stay."""
        drawing = self._without_encoders(params)
        return params | spread_weights(drawing, self.generator.axes, self.mesh)

    def draw(self, params: Params, jobs: Sequence[tuple[Scene, int]]) -> Iterator[np.ndarray]:
        """Pictures u8[b, h, w, 3] of (scene, seed) jobs, in order, a batch at a time."""
        size = self.sampling.batch_size
        for start in range(0, len(jobs), size):
            part = list(jobs[start : start + size])
            filled = part + part[-1:] * (size - len(part))
            asked = placed_batch(self.mesh, size, partial(self._encode, params, filled))
            yield to_uint8(self.run(self._without_encoders(params), *asked))[: len(part)]

    def _encode(self, params, jobs, rows):
        """Seeds and conditioning of these rows: of several processes each encodes what its devices draw."""
        mine = [jobs[row] for row in rows]
        seeds = np.array([seed for _, seed in mine], np.uint32)
        return seeds, self.generator.encode(params, [scene for scene, _ in mine])

    def _without_encoders(self, params):
        return {name: value for name, value in params.items() if not self.generator.encodes(name)}


def drawer_for(generator: Generator, sampling: Sampling, count: int, mesh: Mesh) -> Drawer:
    """One whose batch is the least that holds `count` pictures, up to the batch size, and divides over the mesh."""
    devices = devices_of_batch(mesh)
    batch_size = -(-min(count, sampling.batch_size) // devices) * devices
    return Drawer(generator, replace(sampling, batch_size=batch_size), mesh)


def _drawing(generator: Generator, sampling: Sampling, mesh: Mesh) -> Callable:
    times, branches = generator.sampler_times(sampling.num_steps), sampling.branches(generator.subject_guidance)

    def run(params, seeds, conditioning):
        with traced_on(mesh):
            noise = jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), generator.latent_shape))(seeds)
            latents = rollout(generator, params, conditioning, noise, times, branches, sampling.sampler)
            return generator.decode(params, latents)

    return run
