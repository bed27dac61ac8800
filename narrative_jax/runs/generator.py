"""The generator that a run begins with, and how it draws."""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.mesh import check_batch, check_divided, make_mesh
from narrative_jax.core.options import parse
from narrative_jax.core.types import Params
from narrative_jax.generators.base import Generator, Preset
from narrative_jax.generators.sampling import Sampling
from narrative_jax.models.lora import AdapterOptions
from narrative_jax.models.stacks import unstacked
from narrative_jax.runs.directory import Context

GENERATOR = "generator"  # the section of the config, and what a train entry trains unless it says otherwise


def preset_of(context: Context) -> Preset:
    """The preset that the config names. Raises InputError."""
    preset = context.config.generator.get("preset", None)
    check_name("preset", preset, context.tables.presets)
    return context.tables.presets[preset]


def generator_options(context: Context) -> Any:
    """The preset's options, where entries that they name stand for what these leave. Raises InputError."""
    section = {key: value for key, value in context.config.generator.items() if key != "preset"}
    entries = {key: str(context.path(value)) for key, value in section.items() if value in context.config.stages}
    return parse(preset_of(context).Options, section | entries, GENERATOR)


def sampling_of(context: Context, **changes: Any) -> Sampling:
    """How the config draws. Raises InputError."""
    return parse(Sampling, {**context.config.sampling, **changes}, "sampling")


def check_generator(context: Context) -> None:
    """Raise InputError for an unknown preset or option, a preset whose files are not read yet, a mesh that the devices
    cannot form, a batch off the mesh, and guidance that the generator was not trained for.
    """
    generator_options(context)
    preset = preset_of(context)
    if preset.files:
        rule = f"it is made of {'; '.join(preset.files)}, of which encoders and autoencoder are not read yet"
        remedy = "plan its run with narrative_jax.plan, or choose 'storybook'"
        raise InputError(f"generator.preset {context.config.generator.preset!r}", rule, remedy)
    sampling = sampling_of(context)
    sampling.check(preset.subject_guidance)
    mesh = make_mesh(context.config.mesh)
    check_batch("sampling.batch_size", sampling.batch_size, mesh)
    check_divided(preset.divided, mesh.shape)


def base_generator(context: Context) -> tuple[Generator, Params]:
    """The generator that the run begins with, its weights spread over the config's mesh. Raises InputError."""
    mesh = make_mesh(context.config.mesh)
    return preset_of(context).load(generator_options(context), context.config.seed, mesh)


def check_adapter(preset: Preset, options: AdapterOptions) -> None:
    """Raise InputError for an adapter that the preset's denoiser cannot carry or run: once for all of one kind."""
    adapter_shapes(preset, "checked", replace(options, seed=0))


@lru_cache
def adapter_shapes(preset: Preset, name: str, options: AdapterOptions) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Shapes of the weights, by names on disk, that an adapter of this name has on the preset's denoiser; nothing is
    computed.

    Raises InputError for one that the network cannot carry or run.
    """
    generator, shapes = preset.abstract()

    def run(params):
        adapted, weights = generator.with_adapter(params, name, **asdict(options))
        noisy = jnp.zeros((1, *generator.latent_shape))
        return weights, adapted.denoise(weights, noisy, jnp.ones(1), generator.blank(1), None)

    weights = unstacked(jax.eval_shape(run, dict(shapes))[0])
    targets = rf"{generator.denoiser}\.({options.targets})\.adapters\.{name}\..*"
    return MappingProxyType({key: shape for key, shape in weights.items() if re.fullmatch(targets, key)})
