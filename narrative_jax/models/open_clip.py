"""CLIP's weights in the names of OpenCLIP, which HPS v2 and LAION publish, beside those of transformers."""

from collections.abc import Mapping
from pathlib import Path

import jax

from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import CONV, Published, load_weights, stored_shapes
from narrative_jax.models.clip import CLIP_NAMES

_PARTS = ("query", "key", "value")  # one array in torch's attention, and so in OpenCLIP's
_FUSED = {f"attn.in_proj_{leaf}": [f"attn.{part}.{leaf}" for part in _PARTS] for leaf in ("weight", "bias")}


def _blocks(ours, theirs):
    layers = {
        "norm_attention": "ln_1",
        **{part: f"attn.{part}" for part in _PARTS},
        "attention_out": "attn.out_proj",
        "norm_mlp": "ln_2",
        "mlp_in": "mlp.c_fc",
        "mlp_out": "mlp.c_proj",
    }
    return {f"{ours}.blocks.*.{layer}": f"{theirs}transformer.resblocks.*.{name}" for layer, name in layers.items()}


OPEN_CLIP_NAMES = {
    "logit_scale": Published("logit_scale"),
    "text.token_embedding": Published("token_embedding.weight"),
    "text.position_embedding": Published("positional_embedding"),
    **_blocks("text", ""),
    "text.norm": "ln_final",
    "text.projection.kernel": Published("text_projection"),
    "vision.class_embedding": Published("visual.class_embedding"),
    "vision.patch_embedding": Published("visual.conv1.weight", CONV),
    "vision.position_embedding": Published("visual.positional_embedding"),
    "vision.norm_in": "visual.ln_pre",
    **_blocks("vision", "visual."),
    "vision.norm": "visual.ln_post",
    "vision.projection.kernel": Published("visual.proj"),
}


def load_clip_weights(path: str | Path, like: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
    """Weights of a `Clip`, from a file in either kind of names. Raises InputError as `load_weights`."""
    if OPEN_CLIP_NAMES["vision.patch_embedding"].key in stored_shapes(path):
        return load_weights(path, like, OPEN_CLIP_NAMES, fused=_FUSED)
    return load_weights(path, like, CLIP_NAMES)
