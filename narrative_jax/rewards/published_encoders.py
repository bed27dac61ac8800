"""Encoders of pictures by name: their structure, and their weights from published files."""

from dataclasses import replace
from pathlib import Path

from flax import nnx

from narrative_jax.core.errors import check_name
from narrative_jax.models.checkpoints import Names, load_weights
from narrative_jax.models.clip import CLIP_SIZES, ClipVisionEncoder
from narrative_jax.models.dinov2 import DINOV2_NAMES, DINOV2_SIZES, Dinov2Encoder
from narrative_jax.models.id_encoder import IRESNET_NAMES, IRESNET_SIZES, IResNet
from narrative_jax.models.network import abstract, below
from narrative_jax.models.shipped import STORYBOOK, weights_file
from narrative_jax.rewards.base import size_name
from narrative_jax.rewards.clip_scores import load_clip
from narrative_jax.rewards.picture_encoders import PictureEncoder


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


def _clip(size):
    check_name("size of CLIP", size, CLIP_SIZES)
    _, config = CLIP_SIZES[size]
    network, shapes = abstract(lambda: ClipVisionEncoder(config, rngs=nnx.Rngs(0)))
    sees = config.normalisation, config.patch_size, config.image_size
    return PictureEncoder(f"clip_{size_name(size)}", network, shapes, *sees, output="projected")


ENCODERS = {"dinov2": _dinov2, "iresnet": _iresnet, "clip": _clip}
NAMES: dict[str, Names] = {"dinov2": DINOV2_NAMES, "iresnet": IRESNET_NAMES}


def load_encoder(kind: str, weights: str | Path | None, size: str) -> PictureEncoder:
    """A published encoder; "" stands for the weights that ship, of None there are none.

    "dinov2" has registers where the size says "+registers". "iresnet" is ArcFace's network (insightface's backbone.pth,
    or the same names in safetensors); see `face_alignment`. "clip" is CLIP's image tower, of a file with both towers
    and tokenizer.json beside it. Raises InputError for another kind or size, for a missing file, and on first use for
    unfit weights.
    """
    check_name("encoder", kind, ENCODERS)
    encoder = ENCODERS[kind](size)
    if weights is None:
        return encoder
    if kind == "clip":
        pair = load_clip(weights, size)
        return replace(encoder, read=lambda: below("vision", pair.params))
    file = weights_file(weights, size, kind)
    return replace(encoder, read=lambda: load_weights(file, encoder.shapes, NAMES[kind]))
