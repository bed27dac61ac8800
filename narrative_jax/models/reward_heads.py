"""Small networks that turn an encoder's embedding into a score."""

from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx

from narrative_jax.core.errors import check_name
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import LINEAR, Names, Published, load_weights
from narrative_jax.models.layers import Linear
from narrative_jax.models.network import Network, abstract
from narrative_jax.models.shipped import STORYBOOK


class HeadConfig(NamedTuple):
    """Widths from the embedding to the score; published names of the layers and their `positions` among dropouts."""

    widths: tuple[int, ...]
    positions: tuple[int, ...]
    names: Names


_ONE_LAYER = {"layers.*.kernel": Published("weight", LINEAR), "layers.*.bias": Published("bias")}
AESTHETIC_HEADS = {
    "v1": HeadConfig((768, 1), (0,), _ONE_LAYER),
    "v2": HeadConfig((768, 1024, 128, 64, 16, 1), (0, 2, 4, 6, 7), {"layers.*": "layers.*"}),
    STORYBOOK: HeadConfig((128, 1), (0,), _ONE_LAYER),
}


class LinearHead(nnx.Module):
    """Linear layers with nothing between them but dropout, the identity once trained, as LAION's aesthetic heads."""

    def __init__(self, config: HeadConfig, *, rngs: nnx.Rngs):
        sizes = zip(config.widths, config.widths[1:], strict=False)
        self.layers = nnx.Dict(
            {str(at): Linear(*size, rngs=rngs) for at, size in zip(config.positions, sizes, strict=True)}
        )

    def __call__(self, embeddings: jax.Array) -> jax.Array:
        """Scores f32[b] of image embeddings f32[b, width] of unit length."""
        for layer in self.layers.values():
            embeddings = layer(embeddings)
        return embeddings[:, 0]


def load_aesthetic_head(path: str | Path | None, version: str) -> tuple[Network, Params]:
    """LAION's aesthetic head "v1" or "v2" on embeddings of CLIP ViT-L/14, or Storybook's, from its file.

    Without a path the weights are shapes. Raises InputError for an unknown version, an unreadable file, and one of
    another architecture.
    """
    check_name("aesthetic head", version, AESTHETIC_HEADS)
    config = AESTHETIC_HEADS[version]
    network, shapes = abstract(lambda: LinearHead(config, rngs=nnx.Rngs(0)))
    return network, shapes if path is None else load_weights(path, shapes, config.names)
