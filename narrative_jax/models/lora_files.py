"""LoRA files in the names of diffusers and PEFT, written and read.

A linear layer of ours is one layer there, so that nothing is split or merged. Such a file's adapter acts on every token
that passes its layers; which tokens one of ours acts on stands in metadata, which other libraries pass over.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import write_json
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import (
    LINEAR,
    Names,
    Published,
    check_arrays,
    published_names,
    read_arrays,
    save_weights,
)
from narrative_jax.models.lora import AdapterOptions

WEIGHTS, CONFIG = "pytorch_lora_weights.safetensors", "adapter_config.json"
NAME = "lora"  # of an adapter that was read
_WRAPPED = "base_model.model."  # what PEFT's own keys begin with
_SETTINGS = "lora_adapter_metadata"  # where diffusers keeps PEFT's settings in a file
_LEAVES = {".lora_A.weight": "a", ".lora_B.weight": "b", ".lora.down.weight": "a", ".lora.up.weight": "b"}
_ALPHA = ".alpha"


def save_lora(
    folder: Path, weights: Params, options: AdapterOptions, base: str, base_name: str, names: Names, part: str
) -> None:
    """Write one adapter's weights and PEFT's settings of it; `base` is the base's hash. Raises InputError.

    `part` is what a pipeline calls the network, and begins its keys with.
    """
    plain = {re.sub(r"\.adapters\.[^.]+", "", key): value for key, value in weights.items()}
    layers = {layer: key for layer, key in names.items() if isinstance(key, str)}
    table = {
        f"{layer}.{leaf}": Published(f"{part}.{key}.lora_{leaf.upper()}.weight", LINEAR)
        for layer, key in layers.items()
        for leaf in "ab"
    }
    keys = {entry.key for entry in published_names(plain, table).values()}
    modules = sorted({key.removeprefix(f"{part}.").partition(".lora_")[0] for key in keys})
    settings = {"r": options.rank, "lora_alpha": options.alpha, "target_modules": modules}
    metadata = {
        _SETTINGS: json.dumps({f"{part}.{key}": value for key, value in settings.items()}),
        "segments": json.dumps(list(options.segments)),
        "base": base,
    }
    more = {"peft_type": "LORA", "base_model_name_or_path": base_name, "bias": "none", "lora_dropout": 0.0}
    write_json(folder / CONFIG, {**more, "inference_mode": True, **settings})
    save_weights(folder / WEIGHTS, plain, table, jnp.float32, metadata)


def read_lora(
    path: Path, network: Mapping[str, jax.Array | jax.ShapeDtypeStruct], names: Names, part: str
) -> tuple[str, AdapterOptions, str, Params]:
    """An adapter for the network with these weights: name, options, the base's hash ("" in files of others) and the
    weights. `part` is what a pipeline calls the network, and may begin its keys with.

    It has one rank, the largest of the file's, and one alpha: lower ranks are filled up with zeros, and what other
    alphas make of them goes into b. Raises InputError for what is no LoRA of this network.
    """
    if path.suffix != ".safetensors":
        rule = "only safetensors files are read, since a pickle can run code"
        raise InputError(f"{path}", rule, "convert it, or take the safetensors form")
    arrays, metadata = read_arrays(path)
    kernels = {name: value for name, value in network.items() if name.endswith(".kernel")}
    published = published_names(kernels, names).items()
    parts = _by_module(path, arrays, part, {entry.key.removesuffix(".weight"): name for name, entry in published})
    ranks = {module: len(part["a"]) for module, part in parts.items()}
    try:
        settings = _settings(path, metadata, part)
        alphas = {module: _alpha(module, part, ranks[module], settings) for module, part in parts.items()}
        segments = tuple(json.loads(metadata.get("segments", "[]")))
    except (AttributeError, KeyError, TypeError, ValueError, re.error) as error:
        rule = f"its LoRA settings cannot be read ({error})"
        raise InputError(f"{path}", rule, "copy or download it again") from None
    rank = max(ranks.values())
    alphas = {module: value * (rank / ranks[module]) for module, value in alphas.items()}
    alpha = max(alphas.values(), key=abs) or 1.0
    weights = {}
    for module, part in parts.items():
        more, prefix = (0, rank - ranks[module]), f"{part['layer']}.adapters.{NAME}"
        weights[f"{prefix}.a"] = np.pad(np.float32(part["a"]).T, ((0, 0), more))
        weights[f"{prefix}.b"] = np.pad(np.float32(part["b"]).T * (alphas[module] / alpha), (more, (0, 0)))
    targets = "|".join(re.escape(part["layer"]) for part in parts.values())
    options = AdapterOptions(rank, float(alpha), targets, segments)
    return NAME, options, metadata.get("base", ""), weights


def _by_module(path, arrays, pipeline_part, kernels):
    """{module: {"a": [rank, in], "b": [out, rank], "alpha"?, "layer": ours}} of a file that holds nothing else."""
    parts, unknown = {}, {}
    for key, value in arrays.items():
        ending = next((ending for ending in (*_LEAVES, _ALPHA) if key.endswith(ending)), "")
        module = key.removesuffix(ending).removeprefix(_WRAPPED).removeprefix(f"{pipeline_part}.")
        if module not in kernels or (value.size != 1 if ending == _ALPHA else value.ndim != 2 or not ending):
            unknown[key] = value.shape
        else:
            part = parts.setdefault(module, {"layer": kernels[module].removesuffix(".kernel")})
            part[_LEAVES.get(ending, "alpha")] = value
    check_arrays(path, unknown, {})
    odd = [m for m, part in parts.items() if not {"a", "b"} <= part.keys() or len(part["a"]) != part["b"].shape[1]]
    if odd or not parts:
        rule = f"a LoRA has two arrays of one rank for a layer ({', '.join(odd[:3]) or 'there is none'})"
        raise InputError(f"{path}", rule, "copy or download it again, or give another")
    return parts


def _settings(path, metadata, part):
    """PEFT's settings: of the file itself, or else of the file beside it; none where there is neither."""
    beside = path.parent / CONFIG
    if _SETTINGS in metadata:
        settings = json.loads(metadata[_SETTINGS])
        return {key.removeprefix(f"{part}."): value for key, value in settings.items()}
    return json.loads(beside.read_bytes()) if beside.exists() else {}


def _alpha(module, part, rank, settings):
    """What is divided by the rank; without a word about it the rank itself, as diffusers has it."""
    if "alpha" in part:
        return part["alpha"].item()
    patterns = (settings.get("alpha_pattern") or {}).items()
    pattern = next((value for key, value in patterns if re.match(rf"(.*\.)?({key})$", module)), None)
    alpha = float(settings.get("lora_alpha", rank) if pattern is None else pattern)
    return alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha
