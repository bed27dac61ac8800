"""What the floors above call a generator."""

from collections.abc import Sequence
from typing import Protocol

import jax

from narrative_jax.core.records import Scene
from narrative_jax.core.types import Conditioning, Params
from narrative_jax.models.network import Network


class TimestepDistribution(Protocol):
    """Which times a generator is trained on."""

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Times f32[shape] in [0, 1]."""


class Generator(Protocol):
    """Denoiser, encoders and decoder; weights are arguments, so that every pure method can be jitted and sharded.

    `network` is the denoiser's structure, `prediction_type` what it predicts, `latent_shape` the shape of one
    picture's latents, `timestep_distribution` the times it is trained on, `sampler_shift` moves those it samples at.
    """

    network: Network
    prediction_type: str
    latent_shape: tuple[int, ...]
    timestep_distribution: TimestepDistribution
    sampler_shift: float
    max_subjects: int

    def encode(self, scenes: Sequence[Scene]) -> Conditioning:
        """What the scenes ask for, as arrays (host, cached)."""

    def not_read(self, prompts: Sequence[str]) -> tuple[list[str], list[str]]:
        """Words without a meaning to the text encoder, and prompts that lose their end."""

    def encode_images(self, images) -> jax.Array:
        """Latents f32[b, ...] of images u8[b, h, w, 3] (host)."""

    def unconditional(self, conditioning: Conditioning) -> Conditioning:
        """The same subjects without the text."""

    def drop_text(self, conditioning: Conditioning, drop: jax.Array) -> Conditioning:
        """Without the text where `drop` bool[b] says so."""

    def prepare(self, params: Params, conditioning: Conditioning) -> Conditioning:
        """With what does not change over sampler steps filled in."""

    def denoise(self, params: Params, noisy: jax.Array, t: jax.Array, conditioning: Conditioning) -> jax.Array:
        """Prediction f32[b, ...] for noisy latents at t f32[b]."""

    def decode(self, params: Params, latents: jax.Array) -> jax.Array:
        """Images f32[b, h, w, 3] in [-1, 1]."""
