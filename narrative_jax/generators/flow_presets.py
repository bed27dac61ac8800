"""Presets of the FLUX family: sizes, and where their weights lie."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import jax
from flax import nnx

from narrative_jax.core.errors import InputError
from narrative_jax.core.mesh import laid_shapes
from narrative_jax.core.options import File
from narrative_jax.core.types import Params
from narrative_jax.diffusion.timesteps import LogitNormal
from narrative_jax.generators.flow import TEXT_ENCODER, TRANSFORMER, VAE, FlowConfig, FlowGenerator
from narrative_jax.generators.text import load_text
from narrative_jax.models.autoencoder import KLAutoencoder, PixelAutoencoder
from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.flow_transformer import FLUX_NAMES, FlowTransformer, FlowTransformerConfig
from narrative_jax.models.network import abstract, below, split, under
from narrative_jax.models.shipped import EMBEDDED, RANDOM


@dataclass(frozen=True)
class FlowOptions:
    """`weights` is a safetensors file, "" for the embedded ones or "random"; `text` a folder with a text encoder."""

    weights: File = ""
    text: File = ""


@dataclass(frozen=True)
class FlowPreset(FlowConfig):
    """A flow generator by name; `embedded` says whether weights of it ship. See `base.Preset`.

    Frozen weights lie in memory as `weight_type`. `files` are the published ones that it is made of.
    """

    Options: ClassVar[type] = FlowOptions

    embedded: bool = False
    weight_type: str = "float32"
    files: tuple[str, ...] = ()

    @property
    def kept(self) -> str:
        """See `base.Preset`."""
        return self.transformer.kept

    @property
    def divided(self) -> dict[str, dict[str, int]]:
        """See `base.Preset`."""
        sizes, side = self.transformer, self.token
        tokens = {
            "text tokens": self.text_length,
            "tokens of a picture": (self.image_size // side) ** 2,
            "tokens of subjects": self.max_subjects * (self.subject_size // side) ** 2,
        }
        return {"fsdp": {"width": sizes.width}, "tensor": {"heads": sizes.heads}, "context": tokens}

    def abstract(self) -> tuple["FlowGenerator", Mapping[str, jax.ShapeDtypeStruct]]:
        """See `base.Preset`."""
        network, shapes = abstract(self._transformer)
        generator = FlowGenerator(self, network)
        shapes = under(TRANSFORMER, shapes) | under(VAE, self.autoencoder.shapes)
        types = {name: jax.ShapeDtypeStruct(shape.shape, self.weight_type) for name, shape in shapes.items()}
        return generator, {name: shape for name, shape in types.items() if not generator.encodes(name)}

    def keeping(self, kept: str) -> "FlowPreset":
        """See `base.Preset`."""
        return replace(self, transformer=replace(self.transformer, kept=kept))

    def load(
        self, options: FlowOptions, seed: int, mesh: jax.sharding.Mesh | None = None
    ) -> tuple["FlowGenerator", Params]:
        """See `base.Preset`."""
        if not (options.weights or self.embedded):
            raise InputError("generator.weights ''", "this preset has no embedded ones", "set a file, or 'random'")
        text, reading = load_text(Path(options.text) if options.text else EMBEDDED, self.text_length)
        generator, shapes = self.abstract()
        shapes = laid_shapes(shapes, generator.axes, mesh)
        reading = under(TEXT_ENCODER, reading)
        if options.weights == RANDOM:
            drawing = self._random(seed, shapes)
            encoding = under(VAE, self.autoencoder.random(seed))
            reading |= {name: value for name, value in encoding.items() if generator.encodes(name)}
        else:
            file = options.weights or EMBEDDED / f"{TRANSFORMER}.safetensors"
            read = load_weights(file, below(TRANSFORMER, shapes), FLUX_NAMES, self.weight_type)
            drawing = under(TRANSFORMER, read)
        return replace(generator, text=text), drawing | reading

    def described(self, options: FlowOptions, seed: int) -> tuple[str, str]:
        """See `base.Preset`."""
        if options.weights == RANDOM:
            return f"random weights of seed {seed}", "none, the weights are random"
        if options.weights:
            return options.weights, "not recorded in the run: see where its weights come from"
        return "embedded weights", "Apache-2.0"

    def _random(self, seed, like):
        def draw():
            weights = under(TRANSFORMER, split(self._transformer(seed))[1]) | under(VAE, self.autoencoder.random(seed))
            return {name: weights[name].astype(self.weight_type) for name in like}

        return jax.jit(draw, out_shardings={name: shape.sharding for name, shape in like.items()})()

    def _transformer(self, seed=0):
        return FlowTransformer(self.transformer, rngs=nnx.Rngs(seed))


STORYBOOK_FLOW = FlowPreset(
    transformer=FlowTransformerConfig(
        channels=75, heads=4, axes_dim=(8, 20, 20), double_blocks=1, single_blocks=4, text_dim=128, pooled_dim=128
    ),
    image_size=40,
    subject_size=25,
    autoencoder=PixelAutoencoder(),
    patch=5,
    text_length=16,
    subject_offsets=((0, -5), (0, 8)),
    prediction_type="clean",
    timestep_distribution=LogitNormal(mean=0.4, std=1.0),
    subject_guidance=True,
    embedded=True,
)
TINY_FLOW = replace(
    STORYBOOK_FLOW,
    transformer=replace(STORYBOOK_FLOW.transformer, channels=192, heads=2, axes_dim=(4, 6, 6), single_blocks=1),
    subject_size=24,
    patch=8,
    subject_offsets=((0, -4), (0, 6)),
    embedded=False,
)
# FLUX.1-dev with two subjects of 512², beside the picture as OminiControl places them; its sampler's shift is that of
# 4,096 tokens, exp(1.15).
FLUX_DEV = FlowPreset(
    transformer=FlowTransformerConfig(
        channels=64, heads=24, axes_dim=(16, 56, 56), double_blocks=19, single_blocks=38, text_dim=4096, pooled_dim=768,
        distilled_guidance=True, scanned=True, kept="nothing", compute="bfloat16", attention="auto",
    ),
    image_size=1024,
    subject_size=512,
    autoencoder=KLAutoencoder(compute="bfloat16"),
    patch=2,
    text_length=512,
    subject_offsets=((0, -32), (0, 64)),
    prediction_type="velocity",
    timestep_distribution=LogitNormal(),
    sampler_shift=3.158,
    distilled_guidance=3.5,
    weight_type="bfloat16",
    files=(
        "FLUX.1-dev's transformer (11.9 B, flux1-dev.safetensors or transformer/ of its diffusers folder)",
        "CLIP ViT-L/14's text encoder and tokenizer (text_encoder/, tokenizer/)",
        "T5 v1.1 XXL's encoder and tokenizer (text_encoder_2/, tokenizer_2/)",
        "the autoencoder of 16 channels (ae.safetensors or vae/)",
    ),
)  # fmt: skip
