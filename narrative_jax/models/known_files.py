"""Which published network a file of weights is of, by the names and shapes of its arrays.

For the message about a file that does not fit: whoever took the wrong one wants to know which one it is.
"""

from collections.abc import Mapping, Sequence
from fnmatch import filter as matching
from typing import NamedTuple


class Known(NamedTuple):
    """A kind of network, and its size as options name it; `known` says whether it is a published one."""

    kind: str
    size: str
    known: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.size}"


class _Kind(NamedTuple):
    """Files of this kind have arrays that match each of `keys`; how many match the first, and their shape, tell sizes.

    `*` stands for anything.
    """

    name: str
    keys: tuple[str, ...]
    sizes: Mapping[str, tuple[int, ...]]


_CLIP = {"ViT-B/32": (1, 768, 3, 32, 32), "ViT-L/14": (1, 1024, 3, 14, 14), "ViT-H/14": (1, 1280, 3, 14, 14)}
_CLIP_TEXT = {"ViT-B/32": (1, 77, 512), "ViT-L/14": (1, 77, 768), "ViT-H/14": (1, 77, 1024)}
_DINO = {f"ViT-{size}/14": (1, width, 3, 14, 14) for size, width in {"S": 384, "B": 768, "L": 1024, "g": 1536}.items()}
_REGISTERS = {f"{size}+registers": shape for size, shape in _DINO.items()}
_FLUX = (19, 3072, 3072)
_QWEN = {"2B": (28, 1536, 1536), "7B": (28, 3584, 3584)}

_CLIP_IMAGE = "vision_model.embeddings.patch_embedding.weight"
_CLIP_POSITIONS = "text_model.embeddings.position_embedding.weight"
_DINO_PATCHES = "embeddings.patch_embeddings.projection.weight"
_DINO_THEIRS = ("patch_embed.proj.weight", "mask_token")
_FLUX_QUERY = "transformer_blocks.*.attn.add_q_proj.weight"

# Of two kinds that match, the first is meant.
_KINDS = (
    _Kind("CLIP", (_CLIP_IMAGE, _CLIP_POSITIONS), _CLIP),
    _Kind("the image tower of CLIP", (_CLIP_IMAGE,), _CLIP),
    _Kind("the text tower of CLIP", (_CLIP_POSITIONS,), _CLIP_TEXT),
    _Kind("CLIP in OpenCLIP's names", ("visual.conv1.weight", "visual.class_embedding"), _CLIP),
    _Kind("DINOv2", (_DINO_PATCHES, "embeddings.register_tokens", "*.layer_scale1.lambda1"), _REGISTERS),
    _Kind("DINOv2", (_DINO_PATCHES, "*.layer_scale1.lambda1"), _DINO),
    _Kind("DINOv2 in its authors' own names", (*_DINO_THEIRS, "register_tokens"), _REGISTERS),
    _Kind("DINOv2 in its authors' own names", _DINO_THEIRS, _DINO),
    _Kind(
        "ArcFace's",
        ("layer3.*.conv2.weight", "features.weight", "*.prelu.weight"),
        {"IResNet-50": (14, 256, 256, 3, 3), "IResNet-100": (30, 256, 256, 3, 3)},
    ),
    _Kind("LAION's aesthetic head", ("layers.7.weight", "layers.7.bias"), {"v2": (1, 1, 16)}),
    _Kind("LAION's aesthetic head", ("weight", "bias"), {"v1": (1, 1, 768)}),
    _Kind("the flow transformer", (_FLUX_QUERY, "time_text_embed.guidance_embedder.*"), {"FLUX.1 dev": _FLUX}),
    _Kind("the flow transformer", (_FLUX_QUERY,), {"FLUX.1 schnell": _FLUX}),
    _Kind(
        "FLUX in its authors' own names",
        ("double_blocks.*.img_attn.qkv.weight",),
        {"FLUX.1": (19, 9216, 3072)},
    ),
    _Kind("Qwen2-VL", ("model.*layers.*.self_attn.q_proj.weight", "*visual.merger.ln_q.weight"), _QWEN),
)


def recognise(shapes: Mapping[str, Sequence[int]]) -> Known | None:
    """What arrays of these names and shapes, as published, belong to; None where it is nothing known here."""
    kind = next((kind for kind in _KINDS if all(matching(shapes, key) for key in kind.keys)), None)
    if kind is None:
        return None
    found = matching(shapes, kind.keys[0])
    shape = tuple(shapes[found[0]])
    size = next((size for size, told in kind.sizes.items() if told == (len(found), *shape)), None)
    return Known(kind.name, size or f"of {len(found)} × {kind.keys[0]} {list(shape)}", size is not None)
