"""Published weights of Qwen2-VL: its sizes, and the two layouts of names that files have."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import Published, load_weights, stored_shapes
from narrative_jax.models.vlm import VlmConfig

_2B = VlmConfig(
    151_936, 1536, 12, 2, 28, 8960, tied=True, scanned=True, kept="nothing", compute="bfloat16", attention="auto"
)
QWEN2_VL_SIZES = {
    "2B": _2B,
    "7B": replace(_2B, vocab_size=152_064, width=3584, heads=28, key_heads=4, mlp_width=18_944, tied=False),
}
_INDEX, _ALONE = "model.safetensors.index.json", "model.safetensors"


def _names(vision, words):
    blocks, layers = f"{vision}.blocks.*", f"{words}.layers.*"
    return {
        "vision.patch_embedding": Published(f"{vision}.patch_embed.proj.weight", (1, 2, 3, 4, 0)),
        "vision.blocks.*.norm_attention": f"{blocks}.norm1",
        "vision.blocks.*.qkv": f"{blocks}.attn.qkv",
        "vision.blocks.*.attention_out": f"{blocks}.attn.proj",
        "vision.blocks.*.norm_mlp": f"{blocks}.norm2",
        "vision.blocks.*.mlp_in": f"{blocks}.mlp.fc1",
        "vision.blocks.*.mlp_out": f"{blocks}.mlp.fc2",
        "vision.norm": f"{vision}.merger.ln_q",
        "vision.merge_in": f"{vision}.merger.mlp.0",
        "vision.merge_out": f"{vision}.merger.mlp.2",
        "token_embedding": Published(f"{words}.embed_tokens.weight"),
        "blocks.*.norm_attention": f"{layers}.input_layernorm",
        "blocks.*.query": f"{layers}.self_attn.q_proj",
        "blocks.*.key": f"{layers}.self_attn.k_proj",
        "blocks.*.value": f"{layers}.self_attn.v_proj",
        "blocks.*.attention_out": f"{layers}.self_attn.o_proj",
        "blocks.*.norm_mlp": f"{layers}.post_attention_layernorm",
        "blocks.*.mlp_gate": f"{layers}.mlp.gate_proj",
        "blocks.*.mlp_in": f"{layers}.mlp.up_proj",
        "blocks.*.mlp_out": f"{layers}.mlp.down_proj",
        "norm": f"{words}.norm",
        "out": Published("lm_head.weight"),
    }


# Those of published files, and those that transformers' modules have had since 4.52.
QWEN2_VL_NAMES = _names("visual", "model")
QWEN2_VL_MODULES = _names("model.visual", "model.language_model")


def weights_in(path: str | Path) -> Path:
    """The file of weights, or the index of several, in a folder of a published model; a file itself."""
    path = Path(path)
    if not path.is_dir():
        return path
    return path / _INDEX if (path / _INDEX).exists() else path / _ALONE


def load_vlm_weights(path: str | Path, like: Mapping[str, jax.ShapeDtypeStruct], dtype=jnp.float32) -> Params:
    """Weights of a `Vlm` with the shapes and shardings of `like`, from a folder or a file in either kind of names.

    Raises InputError as `load_weights`.
    """
    file = weights_in(path)
    newer = QWEN2_VL_MODULES["token_embedding"].key in stored_shapes(file)
    return load_weights(file, like, QWEN2_VL_MODULES if newer else QWEN2_VL_NAMES, dtype)
