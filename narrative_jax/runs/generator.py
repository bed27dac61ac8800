"""The generator of a run: the one that it begins with, and what its train entries made of it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.mesh import check_batch, make_mesh
from narrative_jax.core.options import parse
from narrative_jax.core.types import Params
from narrative_jax.generators.base import Generator, Preset
from narrative_jax.generators.sampling import Sampling
from narrative_jax.models.checkpoints import check_arrays, load_weights
from narrative_jax.models.lora import AdapterOptions, adapter_of, fingerprint, read_adapter
from narrative_jax.models.lora_files import read_lora
from narrative_jax.models.network import below, under
from narrative_jax.runs.directory import ADAPTER, MANIFEST, WEIGHTS, Context

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
    """Raise InputError for an unknown preset or option, a mesh that the devices cannot form, a batch off the mesh."""
    generator_options(context)
    check_batch("sampling.batch_size", sampling_of(context).batch_size, make_mesh(context.config.mesh))


def base_generator(context: Context) -> tuple[Generator, Params]:
    """The generator that the run begins with. Raises InputError."""
    return preset_of(context).load(generator_options(context), context.config.seed)


def adapter_shapes(preset: Preset, name: str, options: AdapterOptions) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the weights that an adapter of this name has on the preset's denoiser; nothing is computed.

    Raises InputError for one that the network cannot carry or run.
    """
    generator, shapes = preset.abstract()

    def run(params):
        adapted, weights = generator.with_adapter(params, name, **asdict(options))
        noisy = jnp.zeros((1, *generator.latent_shape))
        return weights, adapted.denoise(weights, noisy, jnp.ones(1), generator.blank(1), None)

    return {key: shape for key, shape in jax.eval_shape(run, dict(shapes))[0].items() if adapter_of(key) == name}


def trained_generator(context: Context, entry: str) -> tuple[Generator, Params]:
    """The generator as a train entry left it: with other weights, or an adapter on its stack. Raises InputError."""
    return with_trained(context, entry, *base_generator(context))


def with_trained(context: Context, entry: str, generator: Generator, params: Params) -> tuple[Generator, Params]:
    """`trained_generator` of a base that is already in memory."""
    folder, part = context.path(entry), generator.denoiser
    if not (folder / WEIGHTS).exists():
        return with_saved_adapter(folder / ADAPTER, generator, params)
    weights = load_weights(folder / WEIGHTS, below(part, params), generator.names[part])
    return generator, params | under(part, weights)


def with_saved_adapter(path: Path, generator: Generator, params: Params) -> tuple[Generator, Params]:
    """The generator with an adapter from disk on its stack.

    Raises InputError for an adapter of another network, rank or targets, and for one trained on another base.
    """
    return _stacked(path, generator, params, *read_adapter(path))


def with_lora_file(path: Path, generator: Generator, params: Params) -> tuple[Generator, Params]:
    """`with_saved_adapter` of a LoRA file in the names of diffusers and PEFT; see `lora_files.read_lora`."""
    part = generator.denoiser
    name, options, base, weights = read_lora(path, below(part, params), generator.names[part], part)
    return _stacked(path, generator, params, name, options, base, under(part, weights))


def base_hash(generator: Generator, params: Params) -> str:
    """The hash of what an adapter is trained on: the denoiser with all that stands on its stack."""
    return fingerprint(below(generator.denoiser, params))


def was_trained(context: Context, entry: str) -> bool:
    """Whether a train entry left weights; it does not where no pair was left to train on."""
    return any((context.path(entry) / file).exists() for file in (WEIGHTS, ADAPTER))


def train_entries(config: Mapping[str, Any]) -> list[str]:
    """The entries that train the generator, in order."""
    return [
        name
        for name in config["stages"]
        if config[name]["stage"] == "train" and config[name].get("trains", GENERATOR) == GENERATOR
    ]


def check_trained(context: Context, otherwise: str) -> None:
    """Raise InputError unless the context's entry left weights; `otherwise` says what else the user can do."""
    if was_trained(context, context.name):
        return
    skipped = (context.folder / MANIFEST).exists()
    rule = "it had no pair to train on" if skipped else "it has not finished"
    remedy = otherwise + ("" if skipped else ", or run the rest of it first")
    raise InputError(f"entry {context.name!r} of {context.workdir}", rule, remedy)


def _stacked(path, generator, params, name, options, base, weights):
    adapted, stacked = generator.with_adapter(params, name, **asdict(options))
    fresh = {key: value.shape for key, value in stacked.items() if key not in params}
    check_arrays(path, {key: value.shape for key, value in weights.items()}, fresh)
    if base and base != base_hash(generator, params):
        rule = f"it was trained on a base with hash {base}, this one has {base_hash(generator, params)}"
        raise InputError(f"{path}", rule, "give the generator it was trained on")
    return adapted, stacked | {key: jnp.asarray(value) for key, value in weights.items()}
