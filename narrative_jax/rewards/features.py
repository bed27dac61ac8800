"""Features of pictures by an encoder, to tell sets of them apart."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

from narrative_jax.core.images import to_float
from narrative_jax.core.options import File
from narrative_jax.rewards.picture_encoders import PictureEncoder
from narrative_jax.rewards.published_encoders import load_encoder
from narrative_jax.rewards.regions import fit

_BATCH = 64  # pictures that the network sees at once, always as many


@dataclass(frozen=True)
class Features:
    """Those of an `encoder` of a `size`, see `published_encoders.load_encoder`, on white squares of `side`."""

    weights: File
    encoder: str = "dinov2"
    size: str = "ViT-B/14"
    side: int = 224

    @cached_property
    def network(self) -> PictureEncoder:
        """The encoder, whose weights are read once, when they are needed. Raises InputError."""
        encoder = load_encoder(self.encoder, self.weights, self.size)
        encoder.check_side(self.side)
        return encoder

    def of(self, images: np.ndarray) -> np.ndarray:
        """Embeddings f32[n, d] of pictures u8[n, h, w, 3], of length √d: a value has a mean square of 1.

        So distances do not hang on an encoder's scale, and the cube that `kernel_distance` takes is of 1 + cosine.
        """
        parts = []
        for start in range(0, len(images), _BATCH):
            part = to_float(images[start : start + _BATCH])
            filled = np.resize(part, (_BATCH, *part.shape[1:]))
            parts.append(np.asarray(self._embed(self.network.params, filled))[: len(part)])
        found = np.concatenate(parts)
        return found * np.float32(found.shape[1] ** 0.5)

    @cached_property
    def _embed(self) -> Callable:
        return jax.jit(lambda params, images: self.network.embed(params, fit(images, self.side)))
