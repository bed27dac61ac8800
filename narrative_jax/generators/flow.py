"""Generators of the FLUX family with subject branches; Storybook's is a small preset of the same classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.images import fit_image, to_float
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Conditioning, Params
from narrative_jax.diffusion.timesteps import LogitNormal
from narrative_jax.generators.text import TextSide
from narrative_jax.models.autoencoder import PixelAutoencoder, from_tokens, to_tokens
from narrative_jax.models.flow_transformer import SEGMENTS, FlowTransformer, FlowTransformerConfig, Positions, Subjects
from narrative_jax.models.lora import append_adapter
from narrative_jax.models.network import Network, split


@dataclass(frozen=True)
class FlowPreset:
    """Sizes and conventions of one flow generator; sizes in pixels, `patch` in latent cells.

    Subject branch i stands `subject_offsets[i]` (rows, columns) of tokens away from the picture; there are as many
    slots as offsets. `distilled_guidance` is the value for networks that embed their guidance.
    """

    transformer: FlowTransformerConfig
    image_size: int
    subject_size: int
    patch: int
    text_length: int
    subject_offsets: tuple[tuple[int, int], ...]
    prediction_type: str
    timestep_distribution: LogitNormal
    sampler_shift: float = 1.0
    distilled_guidance: float = 1.0


@dataclass(frozen=True)
class FlowGenerator:
    """See `generators.base.Generator`; latents are tokens f32[b, n, c] of the picture's patches."""

    preset: FlowPreset
    network: Network
    text: TextSide
    autoencoder: PixelAutoencoder = field(default_factory=PixelAutoencoder)

    @property
    def prediction_type(self) -> str:
        return self.preset.prediction_type

    @property
    def timestep_distribution(self) -> LogitNormal:
        return self.preset.timestep_distribution

    @property
    def sampler_shift(self) -> float:
        return self.preset.sampler_shift

    @property
    def max_subjects(self) -> int:
        return len(self.preset.subject_offsets)

    @property
    def latent_shape(self) -> tuple[int, int]:
        return len(self._positions.noisy), self.preset.transformer.channels

    @property
    def subject_shape(self) -> tuple[int, int, int]:
        return *self._positions.subjects.shape[:2], self.preset.transformer.channels

    def encode(self, scenes: Sequence[Scene]) -> Conditioning:
        """Text encodings and subject latents of scenes; missing subjects are grey and masked. Raises InputError."""
        text, pooled = self.text.encode([scene.prompt for scene in scenes])
        size = self.preset.subject_size
        images = np.full((len(scenes), self.max_subjects, size, size, 3), 127, np.uint8)
        mask = np.zeros(images.shape[:2], bool)
        for row, scene in enumerate(scenes):
            if len(scene.subjects) > self.max_subjects:
                raise InputError(
                    f"scene {scene.id} with {len(scene.subjects)} subjects",
                    f"this generator has {self.max_subjects} slots",
                    'drop subjects, or set max_subjects_policy="drop"',
                )
            for slot, subject in enumerate(scene.subjects):
                images[row, slot], mask[row, slot] = fit_image(subject.images[0], size), True
        tokens = self.encode_images(images.reshape(-1, size, size, 3))
        return Conditioning(text, pooled, tokens.reshape(*mask.shape, *tokens.shape[1:]), mask)

    def not_read(self, prompts: Sequence[str]) -> tuple[list[str], list[str]]:
        """Words without a meaning to the text encoder, and prompts that lose their end."""
        tokenizer = self.text.tokenizer
        return tokenizer.unknown_words(prompts), tokenizer.truncated(prompts, self.text.length)

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        """Latent tokens f32[b, n, c] of images u8[b, h, w, 3]."""
        return np.asarray(to_tokens(self.autoencoder.encode(to_float(images)), self.preset.patch))

    def unconditional(self, conditioning: Conditioning) -> Conditioning:
        """The same subjects with the encoding of an empty prompt."""
        return self.drop_text(conditioning, jnp.ones(len(conditioning.pooled), bool))

    def drop_text(self, conditioning: Conditioning, drop: jax.Array) -> Conditioning:
        """With the encoding of an empty prompt where `drop` bool[b]."""
        text, pooled = self.text.empty
        return conditioning._replace(
            text=jnp.where(drop[:, None, None], text, conditioning.text),
            pooled=jnp.where(drop[:, None], pooled, conditioning.pooled),
            prepared=None,
        )

    def prepare(self, params: Params, conditioning: Conditioning) -> Conditioning:
        """With the subjects' keys and values, where subjects see nothing but themselves; else unchanged."""
        if not self.preset.transformer.independent_subjects:
            return conditioning
        subjects = Subjects(conditioning.subjects, conditioning.subject_mask)
        prepared = self.network.bind(params).prepare(subjects, conditioning.pooled, self._positions)
        return conditioning._replace(prepared=prepared)

    def denoise(self, params: Params, noisy: jax.Array, t: jax.Array, conditioning: Conditioning) -> jax.Array:
        """Prediction f32[b, n, c] for noisy latents at t f32[b]."""
        return self.network.bind(params)(
            noisy,
            t,
            conditioning.text,
            conditioning.pooled,
            self._positions,
            Subjects(conditioning.subjects, conditioning.subject_mask),
            conditioning.prepared,
            jnp.full(len(noisy), self.preset.distilled_guidance),
        )

    def decode(self, params: Params, latents: jax.Array) -> jax.Array:
        """Images f32[b, h, w, 3] in [-1, 1]."""
        height = self.preset.image_size // self.autoencoder.factor
        return self.autoencoder.decode(from_tokens(latents, self.preset.patch, height))

    def with_adapter(self, params: Params, name: str, **adapter) -> tuple["FlowGenerator", Params]:
        """This generator with a fresh adapter on top of its stack, and its weights; see `lora.append_adapter`.

        Raises InputError, also for segments that no token of this network belongs to.
        """
        for segment in adapter["segments"]:
            check_name("segment", segment, SEGMENTS)
        module = self.network.bind(params)
        append_adapter(module, name, **adapter)
        network, params = split(module)
        return replace(self, network=network), params

    @cached_property
    def _positions(self) -> Positions:
        preset, cell = self.preset, self.autoencoder.factor * self.preset.patch
        portrait = _grid(preset.subject_size // cell)
        offsets = [np.array((0, *offset)) for offset in preset.subject_offsets]
        return Positions(_grid(preset.image_size // cell), np.stack([portrait + offset for offset in offsets]))


def build(preset: FlowPreset, text: TextSide, seed: int) -> tuple[FlowGenerator, Params]:
    """A generator with random weights."""
    network, params = split(FlowTransformer(preset.transformer, rngs=nnx.Rngs(seed)))
    return FlowGenerator(preset, network, text), params


def _grid(side):
    """Positions i[side², 3] of a square of tokens: 0, row, column."""
    rows, columns = np.mgrid[:side, :side]
    return np.stack([np.zeros_like(rows), rows, columns], -1).reshape(-1, 3)
