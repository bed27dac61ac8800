"""Pictures to latents and back; a generator's denoiser sees latents cut into patches, one token each."""

import jax
from einops import rearrange


class PixelAutoencoder:
    """Latents are the pixels themselves: for worlds so small that there is nothing to compress."""

    def encode(self, images: jax.Array, patch: int) -> jax.Array:
        """Latent tokens f32[b, n, c] of images f32[b, h, w, 3] in [-1, 1]."""
        return to_tokens(images, patch)

    def decode(self, tokens: jax.Array, patch: int, height: int) -> jax.Array:
        """Images f32[b, h, w, 3] of latent tokens, see `generators.base.Generator`; `height` in latent cells."""
        return from_tokens(tokens, patch, height)


def to_tokens(latents: jax.Array, patch: int) -> jax.Array:
    """Latents f32[b, h, w, c] as tokens f32[b, h/p · w/p, p · p · c], row by row; channels outermost, as in FLUX."""
    return rearrange(latents, "b (h p) (w q) c -> b (h w) (c p q)", p=patch, q=patch)


def from_tokens(tokens: jax.Array, patch: int, height: int) -> jax.Array:
    """The latents f32[b, h, w, c] again; `height` in latent cells."""
    return rearrange(tokens, "b (h w) (c p q) -> b (h p) (w q) c", h=height // patch, p=patch, q=patch)
