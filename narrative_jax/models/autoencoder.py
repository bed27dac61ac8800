"""Pictures to latents and back; a generator's denoiser sees latents cut into patches, one token each."""

import jax
from einops import rearrange


class PixelAutoencoder:
    """Latents are the pixels themselves: for worlds so small that there is nothing to compress."""

    factor = 1  # pixels a latent cell, each way

    def encode(self, images: jax.Array) -> jax.Array:
        """Latents f32[b, h, w, 3] of images f32[b, h, w, 3] in [-1, 1]."""
        return images

    def decode(self, latents: jax.Array) -> jax.Array:
        """Images f32[b, h, w, 3] in [-1, 1]."""
        return latents.clip(-1, 1)


def to_tokens(latents: jax.Array, patch: int) -> jax.Array:
    """Latents f32[b, h, w, c] as tokens f32[b, h/p · w/p, p · p · c], row by row; channels outermost, as in FLUX."""
    return rearrange(latents, "b (h p) (w q) c -> b (h w) (c p q)", p=patch, q=patch)


def from_tokens(tokens: jax.Array, patch: int, height: int) -> jax.Array:
    """The latents f32[b, h, w, c] again; `height` in latent cells."""
    return rearrange(tokens, "b (h w) (c p q) -> b (h p) (w q) c", h=height // patch, p=patch, q=patch)
