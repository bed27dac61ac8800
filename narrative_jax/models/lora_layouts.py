"""How LoRA files of other trainers spell the layers of FLUX.

Diffusers' names are the published ones. FLUX's authors (whose names ComfyUI and Kohya's scripts keep) and XLabs have
names of their own, some of them for several of diffusers' layers at once.
"""

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

WIDTHS = {3072: "FLUX.1"}  # of published networks, whose LoRA files people have

_PREFIXES = r"(base_model\.model\.)?({part}\.|diffusion_model\.|lora_unet_|lora_{part}_)?"
_TEXT_ENCODERS = r"text_encoders?(_\d)?\.|lora_te\d?_"
_LEAVES = {
    "a": r"(lora_A|lora[._]down|down)(\.\w+)?\.weight",  # PEFT may write the adapter's name before "weight"
    "b": r"(lora_B|lora[._]up|up)(\.\w+)?\.weight",
    "alpha": "alpha",
}
_OTHER_KINDS = {
    "DoRA's magnitudes": r"\.(dora_scale|lora_magnitude_vector)",
    "LoKr's factors": r"\.lokr_",
    "LoHa's factors": r"\.hada_",
    "biases": r"\.(lora_B(\.\w+)?\.bias|diff_b)$",
    "whole differences of weights": r"\.diff$",
}


class Fused(NamedTuple):
    """What one layer of a file is: published layers, whose outputs it gives one after the other.

    `swapped` says that the halves of its outputs stand the other way round.
    """

    modules: tuple[str, ...]
    swapped: bool = False

    def split(self, b: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
        """The rows of b f32[sum(sizes), rank] for each of the published layers, which have so many outputs."""
        rows = np.concatenate(np.split(b, 2)[::-1]) if self.swapped else b
        return np.split(rows, np.cumsum(sizes)[:-1])


def _embedder(published):
    embedder = f"time_text_embed.{published}_embedder"
    return {"in_layer": Fused((f"{embedder}.linear_1",)), "out_layer": Fused((f"{embedder}.linear_2",))}


def _stream(norm, queries, out, mlp):
    block = "transformer_blocks.*"
    return {
        "mod.lin": Fused((f"{block}.{norm}.linear",)),
        "attn.qkv": Fused(_attention(block, queries)),
        "attn.proj": Fused((f"{block}.attn.{out}",)),
        "mlp.0": Fused((f"{block}.{mlp}.net.0.proj",)),
        "mlp.2": Fused((f"{block}.{mlp}.net.2",)),
    }


def _attention(block, queries):
    return tuple(f"{block}.attn.{name}" for name in queries)


_IMAGE, _TEXT = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
_SINGLE = "single_transformer_blocks.*"
_OF_A_PART = {  # what a name begins with: what follows
    "time_in.": _embedder("timestep"),
    "guidance_in.": _embedder("guidance"),
    "vector_in.": _embedder("text"),
    "double_blocks.*.img_": _stream("norm1", _IMAGE, "to_out.0", "ff"),
    "double_blocks.*.txt_": _stream("norm1_context", _TEXT, "to_add_out", "ff_context"),
    "single_blocks.*.": {
        "modulation.lin": Fused((f"{_SINGLE}.norm.linear",)),
        "linear1": Fused((*_attention(_SINGLE, _IMAGE), f"{_SINGLE}.proj_mlp")),
        "linear2": Fused((f"{_SINGLE}.proj_out",)),
        "processor.qkv_lora": Fused(_attention(_SINGLE, _IMAGE)),
        "processor.proj_lora": Fused((f"{_SINGLE}.proj_out",)),
    },
    "double_blocks.*.processor.": {
        "qkv_lora1": Fused(_attention("transformer_blocks.*", _IMAGE)),
        "qkv_lora2": Fused(_attention("transformer_blocks.*", _TEXT)),
        "proj_lora1": Fused(("transformer_blocks.*.attn.to_out.0",)),
        "proj_lora2": Fused(("transformer_blocks.*.attn.to_add_out",)),
    },
    "": {
        "img_in": Fused(("x_embedder",)),
        "txt_in": Fused(("context_embedder",)),
        "final_layer.linear": Fused(("proj_out",)),
        # diffusers has the scale first, FLUX's authors the shift
        "final_layer.adaLN_modulation.1": Fused(("norm_out.linear",), swapped=True),
    },
}
_SPELT = {f"{begin}{end}": fused for begin, ends in _OF_A_PART.items() for end, fused in ends.items()}


def spellings(published: Collection[str]) -> dict[str, Fused]:
    """All names, without a prefix, that files may have for layers with these published names."""
    numbers = sorted({name for module in published for name in module.split(".") if name.isdigit()})
    found = {module: Fused((module,)) for module in published}
    for name, (modules, swapped) in _SPELT.items():
        for number in numbers:
            fused = Fused(tuple(module.replace("*", number) for module in modules), swapped)
            if all(module in published for module in fused.modules):
                found[name.replace("*", number)] = fused
    return found | {name.replace(".", "_"): fused for name, fused in found.items()}


def without_prefix(module: str, part: str) -> str:
    """A layer's name without what trainers put before it; `part` is what a pipeline calls the network."""
    return re.sub(f"^{_PREFIXES.format(part=part)}", "", module)


def parse_key(key: str) -> tuple[str, str] | None:
    """The layer's name and "a", "b" or "alpha" of a key; None for one that is no LoRA's."""
    matches = {leaf: re.fullmatch(rf"(.+?)\.{pattern}", key) for leaf, pattern in _LEAVES.items()}
    return next(((match[1], leaf) for leaf, match in matches.items() if match), None)


def of_text_encoder(key: str) -> bool:
    """Whether an array belongs to a text encoder."""
    return re.match(_TEXT_ENCODERS, key) is not None


def of_other_kinds(keys: Collection[str]) -> dict[str, list[str]]:
    """The keys of adapters that are more or other than LoRA, by what they hold."""
    found = {kind: [key for key in keys if re.search(pattern, key)] for kind, pattern in _OTHER_KINDS.items()}
    return {kind: those for kind, those in found.items() if those}
