"""Generators by name: sizes, conventions and where their weights lie."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.types import Conditioning, Params
from narrative_jax.diffusion.timesteps import LogitNormal
from narrative_jax.generators.flow import FlowGenerator, FlowPreset, build
from narrative_jax.generators.text import TextSide
from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.clip import CLIP_SIZES, CLIP_TEXT_NAMES, ClipTextConfig, ClipTextEncoder
from narrative_jax.models.flow_transformer import FLUX_NAMES, FlowTransformer, FlowTransformerConfig
from narrative_jax.models.lora import adapter_of
from narrative_jax.models.network import abstract
from narrative_jax.models.shipped import EMBEDDED
from narrative_jax.models.tokenizer import TOKENIZER, Tokenizer

RANDOM = "random"  # weights of an untrained generator, from the config's seed

STORYBOOK_TEXT = CLIP_SIZES["storybook"][0]
STORYBOOK = FlowPreset(
    transformer=FlowTransformerConfig(
        channels=192, heads=4, axes_dim=(8, 20, 20), double_blocks=1, single_blocks=4, text_dim=128, pooled_dim=128
    ),
    image_size=40,
    subject_size=24,
    patch=8,
    text_length=16,
    subject_offsets=((0, -4), (0, 6)),
    prediction_type="clean",
    timestep_distribution=LogitNormal(mean=0.8, std=1.0),
)
TINY = replace(
    STORYBOOK,
    transformer=replace(STORYBOOK.transformer, heads=2, axes_dim=(4, 6, 6), single_blocks=1),
)
PRESETS = {"storybook": STORYBOOK, "tiny": TINY}


def load_text(folder: Path, config: ClipTextConfig, length: int) -> TextSide:
    """The text encoder in `folder`: tokenizer.json and text_encoder.safetensors. Raises InputError."""
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    config = replace(config, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end)
    network, like = abstract(lambda: ClipTextEncoder(config, rngs=nnx.Rngs(0)))
    return TextSide(
        tokenizer, network, load_weights(folder / "text_encoder.safetensors", like, CLIP_TEXT_NAMES), length
    )


def adapter_shapes(preset: str, name: str, adapter: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the weights that an adapter of this name has on the preset's network; nothing is computed.

    Raises InputError for one that the network cannot carry or run.
    """
    chosen = PRESETS[preset]
    sizes = chosen.transformer

    def run():
        generator, params = build(chosen, None, seed=0)
        generator, params = generator.with_adapter(params, name, **adapter)
        text = jnp.zeros((1, chosen.text_length, sizes.text_dim))
        subjects = jnp.zeros((1, *generator.subject_shape))
        asked = Conditioning(text, jnp.zeros((1, sizes.pooled_dim)), subjects, jnp.ones(subjects.shape[:2], bool))
        return params, generator.denoise(params, jnp.zeros((1, *generator.latent_shape)), jnp.ones(1), asked)

    return {key: shape for key, shape in jax.eval_shape(run)[0].items() if adapter_of(key) == name}


def load_generator(name: str, weights: str, text: str, seed: int) -> tuple[FlowGenerator, Params]:
    """A generator and its weights.

    `weights` is a safetensors file, "" for the embedded ones or "random"; `text` a folder with a text encoder, "" for
    the embedded one. Raises InputError.
    """
    check_name("preset", name, PRESETS)
    preset = PRESETS[name]
    text_side = load_text(Path(text) if text else EMBEDDED, STORYBOOK_TEXT, preset.text_length)
    if weights == RANDOM:
        return build(preset, text_side, seed)
    if not weights and name != "storybook":
        raise InputError(f"preset {name!r} without weights", "only 'storybook' has embedded ones", "set weights=random")
    network, like = abstract(lambda: FlowTransformer(preset.transformer, rngs=nnx.Rngs(0)))
    params = load_weights(weights or EMBEDDED / "transformer.safetensors", like, FLUX_NAMES)
    return FlowGenerator(preset, network, text_side), params
