"""Networks that see what a picture is of, and whom it shows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax
from flax import nnx

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.dinov2 import DINOV2_NAMES, DINOV2_SIZES, Dinov2Encoder
from narrative_jax.models.id_encoder import IRESNET_NAMES, IRESNET_SIZES, IResNet
from narrative_jax.models.layers import unit
from narrative_jax.models.network import Network, abstract
from narrative_jax.models.preprocessing import Normalisation, normalise
from narrative_jax.models.shipped import STORYBOOK, weights_file
from narrative_jax.rewards.base import size_name


@dataclass(frozen=True)
class PictureEncoder:
    """A network that sees what a picture is of; scores that may come from several bear its `name`.

    What it calls `pooled` stands for the picture. It sees squares whose side is a multiple of `patch`, or is `side`
    only. `shapes` are those of its weights, which `read` gives once they are needed; without it there are none.
    """

    name: str
    network: Network
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    normalisation: Normalisation
    patch: int
    side: int | None = None
    read: Callable[[], Params] | None = None

    @cached_property
    def params(self) -> Params:
        """The network's weights."""
        return self.read()

    def check_side(self, side: int) -> None:
        """Raise InputError for squares that the network does not see."""
        check_count("side", side, 1)
        if self.side is None and side % self.patch:
            near = max(side // self.patch, 1) * self.patch
            rule = f"{self.name} sees squares whose side is a multiple of its patch, {self.patch}"
            raise InputError(f"squares of {side}", rule, f"take {near} or {near + self.patch}")
        if self.side not in (None, side):
            raise InputError(f"squares of {side}", f"{self.name} sees those of {self.side} only", f"take {self.side}")

    def embed(self, params: Params, images: jax.Array) -> jax.Array:
        """Unit embeddings f32[..., d] of pictures f32[..., h, w, 3] in [-1, 1]; pure."""
        flat = images.reshape(-1, *images.shape[-3:])
        pooled = self.network.bind(params)(normalise(flat, self.normalisation)).pooled
        return unit(pooled).reshape(*images.shape[:-3], -1)


def _dinov2(size):
    check_name("size of DINOv2", size, DINOV2_SIZES)
    config = DINOV2_SIZES[size]
    structure = abstract(lambda: Dinov2Encoder(config, rngs=nnx.Rngs(0)))
    return PictureEncoder(f"dinov2_{size_name(size)}", *structure, config.normalisation, config.patch_size)


def _iresnet(size):
    check_name("size of IResNet", size, IRESNET_SIZES)
    config = IRESNET_SIZES[size]
    structure = abstract(lambda: IResNet(config, rngs=nnx.Rngs(0)))
    name = f"iresnet_{size_name(size)}" if size == STORYBOOK else size_name(size)
    return PictureEncoder(name, *structure, config.normalisation, config.patch_size, config.image_size)


ENCODERS = {"dinov2": (_dinov2, DINOV2_NAMES), "iresnet": (_iresnet, IRESNET_NAMES)}


def load_encoder(kind: str, weights: str | Path | None, size: str) -> PictureEncoder:
    """A published encoder; "" stands for the weights that ship, of None there are none.

    "dinov2" has registers where the size says "+registers". "iresnet" is ArcFace's network (insightface's backbone.pth,
    or the same names in safetensors); see `face_alignment`. Raises InputError for another kind or size, for a missing
    file, and on first use for unfit weights.
    """
    check_name("encoder", kind, ENCODERS)
    make, names = ENCODERS[kind]
    encoder = make(size)
    if weights is None:
        return encoder
    file = weights_file(weights, size, kind)
    return replace(encoder, read=lambda: load_weights(file, encoder.shapes, names))
