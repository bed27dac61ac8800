"""What train entries made of the generator, left in their folders and opened from there."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.mesh import gathered
from narrative_jax.core.types import Params
from narrative_jax.generators.base import Generator
from narrative_jax.models.checkpoints import load_weights, save_weights
from narrative_jax.models.lora import (
    AdapterOptions,
    fingerprint,
    read_adapter,
    save_adapter,
    with_adapter_weights,
    without_effect,
)
from narrative_jax.models.lora_files import read_lora
from narrative_jax.models.network import below, under
from narrative_jax.runs.directory import ADAPTER, MANIFEST, SAMPLES, WEIGHTS, Context, was_trained
from narrative_jax.runs.generator import GENERATOR, base_generator

CHOOSE = "choose"  # the stage that takes one of the adapters that a train entry kept
_KEPT = "step-"


def trained_generator(context: Context, entry: str) -> tuple[Generator, Params]:
    """The generator as a train entry left it: with other weights, or an adapter on its stack. Raises InputError."""
    return with_trained(context, entry, *base_generator(context))


def with_trained(context: Context, entry: str, generator: Generator, params: Params) -> tuple[Generator, Params]:
    """`trained_generator` of a base that is already in memory; with what the entry began with."""
    generator, params = _begun_with(context, entry, generator, params)
    folder, part = context.path(entry), generator.denoiser
    if not (folder / WEIGHTS).exists():
        return with_saved_adapter(folder / ADAPTER, generator, params)
    weights = load_weights(folder / WEIGHTS, below(part, params), generator.names[part])
    return generator, params | under(part, weights)


def beginning(context: Context) -> tuple[Generator, Params]:
    """The generator as the context's train entry finds it: as the entry that it comes `after` left it."""
    return _begun_with(context, context.name, *base_generator(context))


def standing_on(config: Mapping[str, Any], entry: str) -> list[str]:
    """The train entries that the entry comes after, the first one first, and itself."""
    before = config[training_of(config, entry)].get("after", "")
    return [*(standing_on(config, before) if before else ()), entry]


def training_of(config: Mapping[str, Any], entry: str) -> str:
    """The train entry whose adapter or weights an entry left: itself, or the one that it chose from."""
    return config[entry]["source"] if config[entry]["stage"] == CHOOSE else entry


def check_after(context: Context) -> None:
    """Raise InputError unless what the context's entry comes `after` trains the generator."""
    if before := context.entry.get("after", ""):
        names = generator_entries(context.config)
        check_name(f"entry that {context.name} comes after", before, names[: names.index(context.name)])


def _begun_with(context, entry, generator, params):
    before = context.config[training_of(context.config, entry)].get("after", "")
    return with_trained(context, before, generator, params) if before else (generator, params)


def with_saved_adapter(path: Path, generator: Generator, params: Params) -> tuple[Generator, Params]:
    """The generator with an adapter from disk on its stack.

    Raises InputError for an adapter of another network, rank or targets, and for one trained on another base.
    """
    return _stacked(path, generator, params, *read_adapter(path))


def with_lora_file(path: Path, generator: Generator, params: Params) -> tuple[Generator, Params]:
    """`with_saved_adapter` of a LoRA file, or of a folder with one; see `lora_files.read_lora`."""
    part = generator.denoiser
    name, options, base, weights = read_lora(path, below(part, params), generator.names[part], part)
    return _stacked(path, generator, params, name, options, base, under(part, weights))


@dataclass(frozen=True)
class Saver:
    """Leaves what the context's entry makes of a generator: an adapter on a base of this hash, or all of its denoiser.

    `with_trained` opens it.
    """

    context: Context
    generator: Generator
    adapter: AdapterOptions | None
    base: str

    @classmethod
    def on(cls, context: Context, generator: Generator, weights: Params, adapter: AdapterOptions | None) -> "Saver":
        """For what begins with these weights."""
        return cls(context, generator, adapter, _base_hash(generator, weights) if adapter else "")

    def save(self, params: Params) -> None:
        """Write what was trained. Raises InputError where the disk refuses."""
        folder, part = self.context.folder, self.generator.denoiser
        if self.adapter:
            save_adapter(folder / ADAPTER, params, self.context.name, self.adapter, self.base)
        else:
            save_weights(folder / WEIGHTS, below(part, params), self.generator.names[part])

    def keep(self, step: int, params: Params) -> None:
        """Write the adapter after a step, for `kept_adapters`, wherever it lies. Raises InputError."""
        params = {name: gathered(value) for name, value in params.items()}
        if self.context.writes:
            path = self.context.folder / SAMPLES / f"{_KEPT}{step:06d}.safetensors"
            save_adapter(path, params, self.context.name, self.adapter, self.base)


def kept_adapters(folder: Path) -> dict[int, Path]:
    """The adapters that a train entry kept on its way in its folder, by step, in order."""
    paths = sorted((folder / SAMPLES).glob(f"{_KEPT}*.safetensors"))
    return {int(path.stem.removeprefix(_KEPT)): path for path in paths}


def on_the_way(context: Context, generator: Generator, params: Params) -> Iterator[tuple[int, Generator, Params]]:
    """Step, generator and weights for each adapter that the context's train entry kept, from its `beginning` on, which
    is step 0. Raises InputError for adapters that do not belong there, and where nothing was trained.
    """
    check_trained(context, "choose from another entry")
    paths = kept_adapters(context.folder)
    adapted, params = with_saved_adapter(next(iter(paths.values())), generator, params)
    yield 0, adapted, without_effect(params, context.name)
    for step, path in paths.items():
        name, *_, weights = read_adapter(path)
        yield step, adapted, with_adapter_weights(path, params, name, weights)


def train_entries(config: Mapping[str, Any]) -> list[str]:
    """The entries that train the generator, in order."""
    return [
        name
        for name in config["stages"]
        if config[name]["stage"] == "train" and config[name].get("trains", GENERATOR) == GENERATOR
    ]


def generator_entries(config: Mapping[str, Any]) -> list[str]:
    """The entries that leave a generator, in order: those that train it, and those that choose among what one kept."""
    trained = train_entries(config)
    return [name for name in config["stages"] if name in trained or config[name]["stage"] == CHOOSE]


def check_trained(context: Context, otherwise: str) -> None:
    """Raise InputError unless the context's entry left weights; `otherwise` says what else the user can do."""
    if was_trained(context.folder):
        return
    skipped = (context.folder / MANIFEST).exists()
    rule = "it had no pair to train on" if skipped else "it has not finished"
    remedy = otherwise + ("" if skipped else ", or run the rest of it first")
    raise InputError(f"entry {context.name!r} of {context.workdir}", rule, remedy)


def _base_hash(generator, params):
    """Of the denoiser with all that stands on its stack."""
    return fingerprint(below(generator.denoiser, params))


def _stacked(path, generator, params, name, options, base, weights):
    adapted, fresh = generator.with_adapter(params, name, **asdict(options))
    complete = with_adapter_weights(path, fresh, name, weights)
    if base and base != (found := _base_hash(generator, params)):
        rule = f"it was trained on a base with hash {base}, this one has {found}"
        raise InputError(f"{path}", rule, "give the generator it was trained on")
    return adapted, complete
