"""Generators of the FLUX family with subject branches; Storybook's is a small preset of the same classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.images import crop_image, fit_image, to_float
from narrative_jax.core.memory import Memory, content_key
from narrative_jax.core.options import File
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.diffusion.timesteps import LogitNormal, sampler_grid
from narrative_jax.generators.text import TextSide, load_text
from narrative_jax.models.autoencoder import PixelAutoencoder, from_tokens, to_tokens
from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.flow_transformer import (
    FLUX_NAMES,
    SEGMENTS,
    SUBJECT,
    FlowTransformer,
    FlowTransformerConfig,
    Positions,
    Subjects,
    tokens_of,
)
from narrative_jax.models.lora import with_adapter
from narrative_jax.models.network import Network, abstract, below, split, under
from narrative_jax.models.shipped import EMBEDDED

RANDOM = "random"  # weights of an untrained generator, from the config's seed
TRANSFORMER, TEXT_ENCODER = "transformer", "text_encoder"  # the parts, as diffusers' pipelines call them


@dataclass(frozen=True)
class FlowOptions:
    """`weights` is a safetensors file, "" for the embedded ones or "random"; `text` a folder with a text encoder."""

    weights: File = ""
    text: File = ""


@dataclass(frozen=True)
class FlowPreset:
    """Sizes and conventions of one flow generator; sizes in pixels, `patch` in latent cells. See `base.Preset`.

    Subject branch i stands `subject_offsets[i]` (rows, columns) of tokens away from the picture; there are as many
    slots as offsets. `distilled_guidance` is the value for networks that embed their guidance.
    """

    Options: ClassVar[type] = FlowOptions

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
    embedded: bool = False  # whether weights ship

    @property
    def max_subjects(self) -> int:
        return len(self.subject_offsets)

    def abstract(self) -> tuple["FlowGenerator", Mapping[str, jax.ShapeDtypeStruct]]:
        """See `base.Preset`."""
        network, shapes = abstract(self._transformer)
        return FlowGenerator(self, network), under(TRANSFORMER, shapes)

    def load(self, options: FlowOptions, seed: int) -> tuple["FlowGenerator", Params]:
        """See `base.Preset`."""
        if not (options.weights or self.embedded):
            raise InputError("generator.weights ''", "this preset has no embedded ones", "set a file, or 'random'")
        text, reading = load_text(Path(options.text) if options.text else EMBEDDED, self.text_length)
        if options.weights == RANDOM:
            network, drawing = split(self._transformer(seed))
        else:
            network, shapes = abstract(self._transformer)
            drawing = load_weights(options.weights or EMBEDDED / f"{TRANSFORMER}.safetensors", shapes, FLUX_NAMES)
        return FlowGenerator(self, network, text), under(TRANSFORMER, drawing) | under(TEXT_ENCODER, reading)

    def described(self, options: FlowOptions, seed: int) -> tuple[str, str]:
        """See `base.Preset`."""
        if options.weights == RANDOM:
            return f"random weights of seed {seed}", "none, the weights are random"
        if options.weights:
            return options.weights, "not recorded in the run: see where its weights come from"
        return "embedded weights", "Apache-2.0"

    def _transformer(self, seed=0):
        return FlowTransformer(self.transformer, rngs=nnx.Rngs(seed))


class FlowConditioning(NamedTuple):
    """`text` f32[b, t, d] and `pooled` f32[b, p] of the prompt, the same of an empty one; `subjects` f32[b, s, m, c],
    the latent tokens of each subject image, and `subject_mask` bool[b, s] (False: padding).
    """

    text: jax.Array
    pooled: jax.Array
    empty_text: jax.Array
    empty_pooled: jax.Array
    subjects: jax.Array
    subject_mask: jax.Array


@dataclass(frozen=True)
class FlowGenerator:
    """See `base.Generator`; latents are tokens f32[b, n, c] of the picture's patches."""

    names: ClassVar[Mapping] = {TRANSFORMER: FLUX_NAMES}
    denoiser: ClassVar[str] = TRANSFORMER
    encoders: ClassVar[tuple[str, ...]] = (TEXT_ENCODER,)

    preset: FlowPreset
    network: Network
    text: TextSide | None = None
    autoencoder: PixelAutoencoder = field(default_factory=PixelAutoencoder)
    _seen: Memory = field(default_factory=Memory, compare=False)

    @property
    def axes(self) -> dict[str, tuple]:
        reading = under(TEXT_ENCODER, self.text.network.axes) if self.text else {}
        return under(TRANSFORMER, self.network.axes) | reading

    @property
    def prediction_type(self) -> str:
        return self.preset.prediction_type

    @property
    def timestep_distribution(self) -> LogitNormal:
        return self.preset.timestep_distribution

    @property
    def max_subjects(self) -> int:
        return self.preset.max_subjects

    @property
    def latent_shape(self) -> tuple[int, int]:
        return len(self._positions.noisy), self.preset.transformer.channels

    def sampler_times(self, num_steps: int) -> jax.Array:
        """See `base.Generator`."""
        return sampler_grid(num_steps, self.preset.sampler_shift)

    def blank(self, rows: int) -> FlowConditioning:
        """See `base.Generator`."""
        sizes = self.preset.transformer
        text, pooled = np.zeros((rows, self.preset.text_length, sizes.text_dim)), np.zeros((rows, sizes.pooled_dim))
        text, pooled = np.float32(text), np.float32(pooled)
        subjects = np.zeros((rows, *self._positions.subjects.shape[:2], sizes.channels), np.float32)
        return FlowConditioning(text, pooled, text, pooled, subjects, np.ones(subjects.shape[:2], bool))

    def encode(self, params: Params, scenes: Sequence[Scene]) -> FlowConditioning:
        """Text encodings and subject latents of scenes; missing subjects are grey and masked. Raises InputError."""
        size = self.preset.subject_size
        images = np.full((len(scenes), self.max_subjects, size, size, 3), 127, np.uint8)
        mask = np.zeros(images.shape[:2], bool)
        for row, scene in enumerate(scenes):
            if len(scene.subjects) > self.max_subjects:
                given = f"scene {scene.id} with {len(scene.subjects)} subjects"
                rule = f"this generator has {self.max_subjects} slots"
                raise InputError(given, rule, 'drop subjects, or set max_subjects_policy="drop"')
            for slot, subject in enumerate(scene.subjects):
                images[row, slot], mask[row, slot] = fit_image(subject.images[0], size), True
        prompts = [scene.prompt for scene in scenes]
        text, pooled = self.text.encode(below(TEXT_ENCODER, params), [*prompts, ""])
        text, pooled, empty_text, empty_pooled = text[:-1], pooled[:-1], text[-1:], pooled[-1:]
        empty_text, empty_pooled = (np.repeat(x, len(scenes), 0) for x in (empty_text, empty_pooled))
        return FlowConditioning(text, pooled, empty_text, empty_pooled, self._subjects(params, images), mask)

    def not_read(self, scenes: Sequence[Scene]) -> dict[str, list[str]]:
        """See `base.Generator`."""
        return self.text.not_read([scene.prompt for scene in scenes])

    def fit(self, image: np.ndarray) -> np.ndarray:
        """The middle of a picture of any size, u8[size, size, 3]."""
        return crop_image(image, self.preset.image_size)

    def encode_images(self, params: Params, images: np.ndarray) -> np.ndarray:
        """Latent tokens f32[b, n, c] of images u8[b, h, w, 3]."""
        return np.asarray(to_tokens(self.autoencoder.encode(to_float(images)), self.preset.patch))

    def drop(
        self, conditioning: FlowConditioning, *, text: jax.Array | None = None, subjects: jax.Array | None = None
    ) -> FlowConditioning:
        """With the encoding of an empty prompt, with all subjects masked, where these bool[b] say so."""
        if text is not None:
            conditioning = conditioning._replace(
                text=jnp.where(text[:, None, None], conditioning.empty_text, conditioning.text),
                pooled=jnp.where(text[:, None], conditioning.empty_pooled, conditioning.pooled),
            )
        if subjects is not None:
            conditioning = conditioning._replace(subject_mask=conditioning.subject_mask & ~subjects[:, None])
        return conditioning

    def prepare(self, params: Params, conditioning: FlowConditioning) -> list[tuple[jax.Array, jax.Array]] | None:
        """The subjects' keys and values, where subjects see nothing but themselves; else None."""
        if not self.preset.transformer.independent_subjects:
            return None
        subjects = Subjects(conditioning.subjects, conditioning.subject_mask)
        return self._bound(params).prepare(subjects, conditioning.pooled, self._positions)

    def denoise(
        self,
        params: Params,
        noisy: jax.Array,
        t: jax.Array,
        conditioning: FlowConditioning,
        prepared: list[tuple[jax.Array, jax.Array]] | None = None,
    ) -> jax.Array:
        """See `base.Generator`; noisy latents are f32[k · b, n, c]."""
        copies = len(noisy) // len(conditioning.pooled)
        if copies > 1:
            conditioning = jax.tree.map(lambda x: jnp.concatenate([x] * copies), conditioning)
        subjects = Subjects(conditioning.subjects, conditioning.subject_mask)
        guidance = jnp.full(len(noisy), self.preset.distilled_guidance)
        return self._bound(params)(
            noisy, t, conditioning.text, conditioning.pooled, self._positions, subjects, prepared, guidance
        )

    def decode(self, params: Params, latents: jax.Array) -> jax.Array:
        """Images f32[b, h, w, 3] in [-1, 1]."""
        height = self.preset.image_size // self.autoencoder.factor
        return self.autoencoder.decode(from_tokens(latents, self.preset.patch, height))

    def with_adapter(self, params: Params, name: str, **adapter) -> tuple["FlowGenerator", Params]:
        """See `base.Generator`."""
        for segment in adapter["segments"]:
            check_name("segment", segment, SEGMENTS)
        network, weights = with_adapter(self.network, below(TRANSFORMER, params), name, **adapter)
        return replace(self, network=network), params | under(TRANSFORMER, weights)

    def lora_notes(self, weights: Params, segments: Sequence[str]) -> list[str]:
        """See `base.Generator`: tokens that the adapter does not act on here, and what the network predicts."""
        notes = [_elsewhere(weights, segments)]
        if self.prediction_type != "velocity":
            taken = "FLUX pipelines would take them for velocity"
            notes.append(f"The base predicts {self.prediction_type} latents; {taken}.")
        return list(filter(None, notes))

    def _subjects(self, params, images):
        """Latent tokens f32[b, s, m, c] of subject images u8[b, s, h, w, 3], each image worked out once."""
        by_key = {content_key(image): image for row in images for image in row}
        keys = [content_key(image) for row in images for image in row]
        tokens = self._seen.look_up(
            keys, lambda new: self.encode_images(params, np.stack([by_key[key] for key in new]))
        )
        return np.stack(tokens).reshape(*images.shape[:2], *tokens[0].shape)

    def _bound(self, params):
        return self.network.bind(below(TRANSFORMER, params))

    @cached_property
    def _positions(self) -> Positions:
        preset, cell = self.preset, self.autoencoder.factor * self.preset.patch
        portrait = _grid(preset.subject_size // cell)
        offsets = [np.array((0, *offset)) for offset in preset.subject_offsets]
        return Positions(_grid(preset.image_size // cell), np.stack([portrait + offset for offset in offsets]))


def _grid(side):
    """Positions i[side², 3] of a square of tokens: 0, row, column."""
    rows, columns = np.mgrid[:side, :side]
    return np.stack([np.zeros_like(rows), rows, columns], -1).reshape(-1, 3)


def _elsewhere(weights, segments):
    """What changes where an adapter of these segments acts on all tokens of its layers."""
    changed = {key.partition(".adapters.")[0] for key, value in weights.items() if key.endswith(".b") and value.any()}
    kinds = {kind for layer in changed for kind in tokens_of(layer.removeprefix(f"{TRANSFORMER}."))}
    more = kinds - set(segments) if segments else ()
    if not more:
        return ""
    told = f"This adapter acts on {' and '.join(segments)} tokens only, which the files cannot say: elsewhere "
    if set(more) == {SUBJECT}:
        return told + "it acts on subject tokens too; without subject images the pictures are the same."
    return told + f"it acts on {' and '.join(sorted(more))} tokens too and the pictures are others."


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
    embedded=True,
)
TINY = replace(
    STORYBOOK,
    transformer=replace(STORYBOOK.transformer, heads=2, axes_dim=(4, 6, 6), single_blocks=1),
    embedded=False,
)
