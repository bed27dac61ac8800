"""What several stages share: the scenes, the generator, and the weights that an entry trained."""

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.mesh import check_batch, make_mesh
from narrative_jax.core.records import Scene, Score
from narrative_jax.core.types import Params
from narrative_jax.data.datasets import open_records
from narrative_jax.data.sources import SUBJECT_POLICIES, count_scenes, limit_subjects, read_scenes, storybook_scenes
from narrative_jax.generators.flow import FlowGenerator
from narrative_jax.generators.presets import PRESETS, load_generator
from narrative_jax.generators.sampling import Sampling
from narrative_jax.models.checkpoints import check_arrays, load_weights
from narrative_jax.models.flow_transformer import FLUX_NAMES
from narrative_jax.models.lora import fingerprint, read_adapter
from narrative_jax.models.lora_files import read_lora
from narrative_jax.models.shipped import EMBEDDED, STORYBOOK
from narrative_jax.stages.base import Context

WEIGHTS, ADAPTER = "weights.safetensors", "adapter.safetensors"  # what a train entry leaves


def check_generator(config) -> None:
    """Raise InputError for an unknown preset or sampler, a mesh that the devices cannot form, a batch off the mesh."""
    check_name("preset", config.generator.preset, PRESETS)
    check_batch("sampling.batch_size", Sampling(**config.sampling).batch_size, make_mesh(config.mesh))


def check_scenes(config, entry, minimum: int = 1) -> None:
    """Raise InputError unless the entry has at least `minimum` scenes that can be read and drawn."""
    check_name("max_subjects_policy", config.max_subjects_policy, SUBJECT_POLICIES)
    if not config.scenes:
        check_count("scenes", entry.scenes, minimum)
        storybook_scenes(entry.split, 1, entry.scene_seed)
        return
    check_count("scenes", entry.scenes)
    max_subjects = len(PRESETS[config.generator.preset].subject_offsets)
    count = count_scenes(config.scenes, max_subjects, config.max_subjects_policy)
    if min(count, entry.scenes or count) < minimum:
        given = f"{min(count, entry.scenes or count)} scene of {config.scenes}"
        raise InputError(given, f"{minimum} or more are needed", "give more")


def base_generator(context: Context) -> tuple[FlowGenerator, Params]:
    """The generator of the config. `generator.text` is a folder or the name of an entry that trained the encoder."""
    chosen = context.config.generator
    text = context.path(chosen.text) if chosen.text in context.config.stages else chosen.text
    return load_generator(chosen.preset, chosen.weights, text, context.config.seed)


def trained(context: Context, entry: str, generator: FlowGenerator, params: Params) -> tuple[FlowGenerator, Params]:
    """The generator with what a train entry made: other weights, or an adapter on its stack. Raises InputError."""
    folder = context.path(entry)
    if (folder / WEIGHTS).exists():
        return generator, load_weights(folder / WEIGHTS, params, FLUX_NAMES)
    return with_saved_adapter(folder / ADAPTER, generator, params)


def with_saved_adapter(path: Path, generator: FlowGenerator, params: Params) -> tuple[FlowGenerator, Params]:
    """The generator with an adapter from disk on its stack.

    Raises InputError for an adapter of another network, rank or targets, and for one trained on another base.
    """
    return _stacked(path, generator, params, *read_adapter(path))


def with_lora_file(path: Path, generator: FlowGenerator, params: Params) -> tuple[FlowGenerator, Params]:
    """`with_saved_adapter` of a LoRA file in the names of diffusers and PEFT; see `lora_files.read_lora`."""
    return _stacked(path, generator, params, *read_lora(path, params, FLUX_NAMES))


def _stacked(path, generator, params, name, made_with, base, weights):
    adapted, stacked = generator.with_adapter(params, name, **made_with)
    fresh = {key: value.shape for key, value in stacked.items() if key not in params}
    check_arrays(path, {key: value.shape for key, value in weights.items()}, fresh)
    if base and base != fingerprint(params):
        rule = f"it was trained on a base with hash {base}, this one has {fingerprint(params)}"
        raise InputError(f"{path}", rule, "give the generator it was trained on")
    return adapted, stacked | {key: jnp.asarray(value) for key, value in weights.items()}


def was_trained(context: Context, entry: str) -> bool:
    """Whether a train entry left weights; it does not where no pair was left to train on."""
    return any((context.path(entry) / file).exists() for file in (WEIGHTS, ADAPTER))


def some_scenes(config, split: str, count: int, seed: int, max_subjects: int) -> tuple[Sequence[Scene], list[str]]:
    """The first `count` scenes of a split, or of a user's file (0: all), and the ids of those with too many subjects.

    A user's scenes have no splits: they are the same for every entry. Raises InputError.
    """
    check_count("scenes", count, minimum=0 if config.scenes else 1)
    scenes = read_scenes(config.scenes) if config.scenes else storybook_scenes(split, count, seed)
    kept, dropped = limit_subjects(scenes, max_subjects, config.max_subjects_policy)
    return kept[: count or None], dropped


def read_scores(context: Context, name: str, ids: Sequence[str]) -> np.ndarray:
    """What a score entry gave these candidates, f64[ids, aspects]. Raises InputError for one that it gave nothing."""
    of = {record.candidate_id: record.scores for record in open_records(context.path(name) / "scores", Score)}
    missing = [each for each in ids if each not in of]
    if missing:
        rule = f"candidate {missing[0]!r} has no score"
        raise InputError(f"{context.path(name)}", rule, f"remove it and run {name} again")
    return np.array([of[each] for each in ids])


def call(kind: str, make: Callable, options: Mapping):
    """`make(**options)`. Raises InputError for an option that it does not have or needs and is not given."""
    known = signature(make).parameters.values()
    for option in options:
        check_name(f"option of {kind}", option, [each.name for each in known])
    for each in known:
        if each.default is Parameter.empty and each.name not in options:
            raise InputError(f"{kind} without {each.name!r}", "it has no default", f"set {each.name} in its section")
    return make(**options)


def weights_file(path: str | Path, size: str = "", embedded: str = "") -> Path:
    """The path; "" stands for what ships as `embedded` where the size is Storybook's. Raises InputError."""
    if not path and size == STORYBOOK:
        return EMBEDDED / "encoders" / f"{embedded}.safetensors"
    if not Path(path).is_file():
        raise InputError(f"weights {str(path)!r}", "there is no such file", "give the path of a published one")
    return Path(path)
