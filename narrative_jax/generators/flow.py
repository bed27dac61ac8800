"""Generators of the FLUX family with subject branches; Storybook's is a small preset of the same classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import crop_image, fit_image, to_float
from narrative_jax.core.memory import Memory, content_key
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.diffusion.timesteps import LogitNormal, sampler_grid
from narrative_jax.generators.base import Generator
from narrative_jax.generators.text import TextSide
from narrative_jax.models.autoencoder import Autoencoder
from narrative_jax.models.flow_transformer import (
    FLUX_NAMES,
    SUBJECT,
    FlowTransformerConfig,
    Positions,
    Prepared,
    Subjects,
    acts_elsewhere,
    check_segments,
)
from narrative_jax.models.network import Network, below, under

# the parts, as diffusers' pipelines call them
TRANSFORMER, TEXT_ENCODER, VAE = "transformer", "text_encoder", "vae"


@dataclass(frozen=True)
class FlowConfig:
    """Sizes and conventions of one flow generator; sizes in pixels, `patch` in latent cells of the `autoencoder`.

    Subject branch i stands `subject_offsets[i]` (rows, columns) of tokens away from the picture; there are as many
    slots as offsets. `distilled_guidance` is the value for networks that embed their guidance; `subject_guidance` says
    whether it was trained on scenes without their subjects too. Raises InputError for sizes that tokens do not fill.
    """

    transformer: FlowTransformerConfig
    image_size: int
    subject_size: int
    autoencoder: Autoencoder
    patch: int
    text_length: int
    subject_offsets: tuple[tuple[int, int], ...]
    prediction_type: str
    timestep_distribution: LogitNormal
    sampler_shift: float = 1.0
    distilled_guidance: float = 1.0
    subject_guidance: bool = False

    def __post_init__(self):
        token = self.token
        for name in ("image_size", "subject_size"):
            if (size := getattr(self, name)) % token:
                rule = f"tokens of {token} pixels' side fill it"
                raise InputError(f"{name} {size}", rule, f"give a multiple, e.g. {-(-size // token) * token}")

    @property
    def token(self) -> int:
        """The side of what a token stands for, in pixels."""
        return self.autoencoder.cell * self.patch

    @property
    def max_subjects(self) -> int:
        return len(self.subject_offsets)


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
class FlowGenerator(Generator):
    """See `base.Generator`; latents are tokens f32[b, n, c] of the picture's patches.

    `stack` holds the segments of each adapter that was put on.
    """

    denoiser: ClassVar[str] = TRANSFORMER
    encoders: ClassVar[tuple[str, ...]] = (TEXT_ENCODER, f"{VAE}.encoder")

    config: FlowConfig
    network: Network
    text: TextSide | None = None
    stack: tuple[tuple[str, ...], ...] = ()
    _seen: Memory = field(default_factory=Memory, compare=False)

    @property
    def names(self) -> Mapping[str, Mapping]:
        return {TRANSFORMER: FLUX_NAMES, VAE: self.config.autoencoder.names}

    @property
    def axes(self) -> dict[str, tuple]:
        reading = under(TEXT_ENCODER, self.text.network.axes) if self.text else {}
        return under(TRANSFORMER, self.network.axes) | under(VAE, self.config.autoencoder.axes) | reading

    @property
    def prediction_type(self) -> str:
        return self.config.prediction_type

    @property
    def timestep_distribution(self) -> LogitNormal:
        return self.config.timestep_distribution

    @property
    def max_subjects(self) -> int:
        return self.config.max_subjects

    @property
    def subject_guidance(self) -> bool:
        return self.config.subject_guidance

    @property
    def latent_shape(self) -> tuple[int, int]:
        return len(self._positions.noisy), self.config.transformer.channels

    def sampler_times(self, num_steps: int) -> jax.Array:
        """See `base.Generator`."""
        return sampler_grid(num_steps, self.config.sampler_shift)

    def blank(self, rows: int) -> FlowConditioning:
        """See `base.Generator`."""
        sizes = self.config.transformer
        text, pooled = np.zeros((rows, self.config.text_length, sizes.text_dim)), np.zeros((rows, sizes.pooled_dim))
        text, pooled = np.float32(text), np.float32(pooled)
        subjects = np.zeros((rows, *self._positions.subjects.shape[:2], sizes.channels), np.float32)
        return FlowConditioning(text, pooled, text, pooled, subjects, np.ones(subjects.shape[:2], bool))

    def encode(self, params: Params, scenes: Sequence[Scene]) -> FlowConditioning:
        """Text encodings and subject latents of scenes; missing subjects are grey and masked. Raises InputError."""
        size = self.config.subject_size
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
        subjects = [subject for scene in scenes for subject in scene.subjects if len(subject.images) > 1]
        further = [f"{subject.name} ({len(subject.images) - 1})" for subject in subjects]
        return {**self.text.not_read([scene.prompt for scene in scenes]), "further_photos": further}

    def fit(self, image: np.ndarray) -> np.ndarray:
        """The middle of a picture of any size, u8[size, size, 3]."""
        return crop_image(image, self.config.image_size)

    def encode_images(self, params: Params, images: np.ndarray) -> np.ndarray:
        """Latent tokens f32[b, n, c] of images u8[b, h, w, 3]."""
        return self.config.autoencoder.encode(below(VAE, params), to_float(images), self.config.patch)

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

    def prepare(self, params: Params, conditioning: FlowConditioning) -> Prepared | None:
        """The subjects' keys and values, where subjects see nothing but themselves; else None."""
        if not self.config.transformer.independent_subjects:
            return None
        subjects = Subjects(conditioning.subjects, conditioning.subject_mask)
        return self._bound(params).prepare(subjects, conditioning.pooled, self._positions)

    def prepares_as(self, base: Generator) -> bool:
        """See `base.Generator`: the adapters on top of `base` act on no subject token."""
        return all(segments and SUBJECT not in segments for segments in self.stack[len(base.stack) :])

    def denoise(
        self,
        params: Params,
        noisy: jax.Array,
        t: jax.Array,
        conditioning: FlowConditioning,
        prepared: Prepared | None = None,
    ) -> jax.Array:
        """See `base.Generator`; noisy latents are f32[b · k, n, c]."""
        copies = len(noisy) // len(conditioning.pooled)
        conditioning = jax.tree.map(lambda x: jnp.repeat(x, copies, 0), conditioning)
        subjects = Subjects(conditioning.subjects, conditioning.subject_mask)
        guidance = jnp.full(len(noisy), self.config.distilled_guidance)
        return self._bound(params)(
            noisy, t, conditioning.text, conditioning.pooled, self._positions, subjects, prepared, guidance
        )

    def decode(self, params: Params, latents: jax.Array) -> jax.Array:
        """See `base.Generator`."""
        autoencoder = self.config.autoencoder
        height = self.config.image_size // autoencoder.cell
        return autoencoder.decode(below(VAE, params), latents, self.config.patch, height)

    def with_adapter(self, params: Params, name: str, **adapter) -> tuple["FlowGenerator", Params]:
        """See `base.Generator`."""
        check_segments(adapter["segments"])
        adapted, weights = super().with_adapter(params, name, **adapter)
        return replace(adapted, stack=(*self.stack, tuple(adapter["segments"]))), weights

    def lora_notes(self, weights: Params, segments: Sequence[str]) -> list[str]:
        """See `base.Generator`: tokens that the adapter does not act on here, and what the network predicts."""
        changed = [key for key, value in below(TRANSFORMER, weights).items() if key.endswith(".b") and value.any()]
        notes = [acts_elsewhere({key.partition(".adapters.")[0] for key in changed}, segments)]
        if self.prediction_type != "velocity":
            taken = "FLUX pipelines would take them for velocity"
            notes.append(f"The base predicts {self.prediction_type} latents; {taken}.")
        return list(filter(None, notes))

    def _subjects(self, params, images):
        """Latent tokens f32[b, s, m, c] of subject images u8[b, s, h, w, 3], each image worked out once."""
        flat = images.reshape(-1, *images.shape[2:])
        keys = [content_key(image) for image in flat]
        by_key = dict(zip(keys, flat, strict=True))
        tokens = self._seen.look_up(
            keys, lambda new: self.encode_images(params, np.stack([by_key[key] for key in new]))
        )
        return np.stack(tokens).reshape(*images.shape[:2], *tokens[0].shape)

    def _bound(self, params):
        return self.network.bind(below(TRANSFORMER, params))

    @cached_property
    def _positions(self) -> Positions:
        config, token = self.config, self.config.token
        portrait = _grid(config.subject_size // token)
        offsets = [np.array((0, *offset)) for offset in config.subject_offsets]
        return Positions(_grid(config.image_size // token), np.stack([portrait + offset for offset in offsets]))


def _grid(side):
    """Positions i[side², 3] of a square of tokens: 0, row, column."""
    rows, columns = np.mgrid[:side, :side]
    return np.stack([np.zeros_like(rows), rows, columns], -1).reshape(-1, 3)
