"""A file of the wrong network is told for what it is: every published one in the place of every other."""

import re
from dataclasses import replace
from functools import cache
from itertools import permutations

import numpy as np
import pytest
from flax import nnx
from one_entry import entry
from parity import published_shapes
from safetensors.numpy import save_file
from small_rewards import TOKENIZER

from narrative_jax.core.errors import InputError
from narrative_jax.models.checkpoints import check_arrays
from narrative_jax.models.clip import (
    CLIP_NAMES,
    CLIP_SIZES,
    CLIP_TEXT_NAMES,
    CLIP_VISION_NAMES,
    Clip,
    ClipTextEncoder,
    ClipVisionEncoder,
)
from narrative_jax.models.dinov2 import DINOV2_NAMES, DINOV2_SIZES, Dinov2Encoder
from narrative_jax.models.flow_transformer import FLUX_NAMES, FlowTransformer, FlowTransformerConfig
from narrative_jax.models.id_encoder import IRESNET_NAMES, IRESNET_SIZES, IResNet
from narrative_jax.models.known_files import recognise
from narrative_jax.models.network import abstract
from narrative_jax.models.open_clip import OPEN_CLIP_NAMES
from narrative_jax.models.reward_heads import AESTHETIC_HEADS, LinearHead
from narrative_jax.models.vlm import Vlm
from narrative_jax.models.vlm_files import QWEN2_VL_NAMES, QWEN2_VL_SIZES
from narrative_jax.runs.rewards import open_reward

CLIPS, DINOS, IRESNETS = (
    ("ViT-B/32", "ViT-L/14", "ViT-H/14"),
    ("ViT-S/14", "ViT-B/14", "ViT-L/14", "ViT-g/14"),
    (50, 100),
)
# Two layers of FLUX.1 dev: tracing all of them takes long, and one shape and the counts tell.
FLUX = FlowTransformerConfig(64, 24, (16, 56, 56), 1, 1, 4096, 768, distilled_guidance=True)


def shapes(module, config, names):
    """Published keys and shapes of a network, which is never filled."""
    return published_shapes(abstract(lambda: module(config, rngs=nnx.Rngs(0)))[1], names)


def flux(guidance):
    found = shapes(FlowTransformer, replace(FLUX, distilled_guidance=guidance), FLUX_NAMES)
    for prefix, count in (("transformer_blocks", 19), ("single_transformer_blocks", 38)):
        first = {key: shape for key, shape in found.items() if key.startswith(f"{prefix}.0.")}
        found |= {key.replace(".0.", f".{i}.", 1): shape for key, shape in first.items() for i in range(count)}
    return found


@cache
def published():
    """Arrays by what a message calls their network."""
    known = {}
    for size in CLIPS:
        text, vision = CLIP_SIZES[size]
        both = abstract(lambda text=text, vision=vision: Clip(text, vision, rngs=nnx.Rngs(0)))[1]
        known[f"CLIP {size}"] = published_shapes(both, CLIP_NAMES)
        known[f"CLIP in OpenCLIP's names {size}"] = published_shapes(both, OPEN_CLIP_NAMES)
        known[f"the text tower of CLIP {size}"] = shapes(ClipTextEncoder, text, CLIP_TEXT_NAMES)
        known[f"the image tower of CLIP {size}"] = shapes(ClipVisionEncoder, vision, CLIP_VISION_NAMES)
    for size in DINOS:
        for form in (size, f"{size}+registers"):
            known[f"DINOv2 {form}"] = shapes(Dinov2Encoder, DINOV2_SIZES[form], DINOV2_NAMES)
    for size in IRESNETS:
        known[f"ArcFace's IResNet-{size}"] = shapes(IResNet, IRESNET_SIZES[f"IResNet-{size}"], IRESNET_NAMES)
    for size, config in QWEN2_VL_SIZES.items():
        known[f"Qwen2-VL {size}"] = shapes(Vlm, config, QWEN2_VL_NAMES)
    for version in ("v1", "v2"):
        config = AESTHETIC_HEADS[version]
        known[f"LAION's aesthetic head {version}"] = shapes(LinearHead, config, config.names)
    return known | {"the flow transformer FLUX.1 dev": flux(True), "the flow transformer FLUX.1 schnell": flux(False)}


@pytest.mark.slow
def test_each_is_recognised():
    for name, arrays in published().items():
        found = recognise(arrays)
        assert (str(found), found.known) == (name, True)
        check_arrays("file", arrays, arrays)


@pytest.mark.slow
def test_every_one_in_the_place_of_every_other():
    for (given, found), (asked, wanted) in permutations(published().items(), 2):
        with pytest.raises(InputError) as error:
            check_arrays("file", found, wanted)
        message, kind = str(error.value), recognise(wanted).kind
        assert message.startswith(f"file: by its arrays it is {given}, not {asked}: ") and "\n" not in message
        remedy = f"; give weights of {asked}"
        remedy += f", or ask for {given.removeprefix(kind + ' ')}" if recognise(found).kind == kind else ""
        assert message.endswith(remedy)


@pytest.mark.slow
def test_sizes_are_those_that_options_name():
    """Where the remedy is to ask for another size, there is one of that name."""
    named = {
        "CLIP": CLIP_SIZES,
        "DINOv2": DINOV2_SIZES,
        "ArcFace's": IRESNET_SIZES,
        "LAION's aesthetic head": AESTHETIC_HEADS,
        "Qwen2-VL": QWEN2_VL_SIZES,
    }
    found = [recognise(arrays) for arrays in published().values()]
    assert all(each.size in named[each.kind] for each in found if each.kind in named)


@pytest.mark.parametrize(
    "arrays, name",
    [
        ({"cls_token": (1, 1, 768), "mask_token": (1, 768), "patch_embed.proj.weight": (768, 3, 14, 14)}, "ViT-B/14"),
        (
            {"register_tokens": (1, 4, 384), "mask_token": (1, 384), "patch_embed.proj.weight": (384, 3, 14, 14)},
            "ViT-S/14+registers",
        ),
    ],
)
def test_the_authors_own_names(arrays, name):
    assert str(recognise(arrays)) == f"DINOv2 in its authors' own names {name}"


def test_flux_in_its_authors_names():
    arrays = {f"double_blocks.{i}.img_attn.qkv.weight": (9216, 3072) for i in range(19)}
    assert str(recognise(arrays)) == "FLUX in its authors' own names FLUX.1"


@pytest.mark.slow
def test_sizes_of_ones_own_are_told_by_a_shape():
    small = shapes(Dinov2Encoder, replace(DINOV2_SIZES["ViT-S/14"], width=24, heads=3, blocks=1), DINOV2_NAMES)
    said = (
        "by its arrays it is DINOv2 of 1 × embeddings.patch_embeddings.projection.weight [24, 3, 14, 14], "
        r"not DINOv2 ViT-S/14: .*; give weights of DINOv2 ViT-S/14$"
    )
    with pytest.raises(InputError, match=said.replace("[", r"\[")):
        check_arrays("file", small, published()["DINOv2 ViT-S/14"])


def test_what_is_known_nowhere():
    dino = published()["DINOv2 ViT-S/14"]
    with pytest.raises(InputError, match="file: by its arrays it is no network that is known here, not DINOv2 ViT-S"):
        check_arrays("file", {"a": (2,)}, dino)
    with pytest.raises(InputError, match=r"it is DINOv2 ViT-S/14, not this network: .*; give weights of this arch"):
        check_arrays("file", dino, {"a": (2,)})
    with pytest.raises(InputError, match="file: its arrays are not this network's: 1 missing"):
        check_arrays("file", {"a": (2,)}, {"a": (2,), "b": (3,)})
    damaged = {key: shape for key, shape in dino.items() if key != "layernorm.bias"}
    with pytest.raises(InputError, match=r"file: its arrays are not this network's: 1 missing \(layernorm.bias\); "):
        check_arrays("file", damaged, dino)


DINO, CLIP, ARCFACE = "DINOv2 ViT-S/14", "CLIP ViT-B/32", "ArcFace's IResNet-50"


@pytest.mark.parametrize(
    "reward, options, given, asked",
    [
        ("identity", {"weights": DINO, "size": "ViT-B/14"}, DINO, "DINOv2 ViT-B/14"),
        ("identity", {"weights": ARCFACE, "size": "ViT-S/14"}, ARCFACE, DINO),
        ("subject_consistency", {"weights": DINO, "size": "ViT-L/14"}, DINO, "DINOv2 ViT-L/14"),
        ("clip_cosine", {"weights": DINO, "size": "ViT-B/32"}, DINO, CLIP),
        ("pick_score", {"weights": ARCFACE}, ARCFACE, "CLIP ViT-H/14"),
        ("aesthetic", {"clip": DINO, "head": "LAION's aesthetic head v2"}, DINO, "CLIP ViT-L/14"),
        ("aesthetic", {"clip": DINO, "head": DINO, "version": "v1"}, DINO, "LAION's aesthetic head v1"),
    ],
)
def test_as_a_config_meets_it(tmp_path, reward, options, given, asked):
    """Whole files of zeros, a byte each: their arrays are refused before a number is read."""
    TOKENIZER.save(tmp_path / "tokenizer.json")
    for option, name in list(options.items()):
        if name in published():
            options[option] = str(tmp_path / f"{option}.safetensors")
            save_file({key: np.zeros(shape, np.uint8) for key, shape in published()[name].items()}, options[option])
    section = {"stage": "score", "source": "draw", "reward": reward, "batch_size": 2, reward: options}
    with pytest.raises(InputError, match=re.escape(f": by its arrays it is {given}, not {asked}: ")):
        open_reward(entry({"mesh": {"data": -1}, "score": section}, "score"))
