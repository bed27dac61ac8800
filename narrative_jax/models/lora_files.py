"""LoRA files, written in the names of diffusers and PEFT, and read in those of other trainers too.

A linear layer of ours is one layer of diffusers'. Such a file's adapter acts on every token that passes its layers;
which tokens one of ours acts on stands in metadata, which other libraries pass over.
"""

import json
import math
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mode
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import write_json
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import (
    LINEAR,
    Names,
    Published,
    first,
    published_names,
    read_arrays,
    save_weights,
)
from narrative_jax.models.lora import AdapterOptions
from narrative_jax.models.lora_layouts import (
    WIDTHS,
    of_other_kinds,
    of_text_encoder,
    parse_key,
    spellings,
    without_prefix,
)
from narrative_jax.models.stacks import shapes_on_disk

WEIGHTS, CONFIG = "pytorch_lora_weights.safetensors", "adapter_config.json"
NAME = "lora"  # of an adapter that was read
_IN_FOLDERS = (WEIGHTS, "adapter_model.safetensors")  # the second is PEFT's name
_SETTINGS = "lora_adapter_metadata"  # where diffusers keeps PEFT's settings in a file
_OURS = "give a LoRA that was trained on this generator"


def save_lora(
    folder: Path, weights: Params, options: AdapterOptions, base: str, base_name: str, names: Names, part: str
) -> None:
    """Write one adapter's weights, by names on disk, and PEFT's settings of it; `base` is the base's hash.

    `part` is what a pipeline calls the network, and begins its keys with. Raises InputError.
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


def read_lora(path: Path, network: Params, names: Names, part: str) -> tuple[str, AdapterOptions, str, Params]:
    """An adapter for the network with these weights: name, options, the base's hash ("" in files of others) and the
    weights. `path` is a file, or a folder as our export or PEFT leaves it; `part` is what a pipeline calls the network,
    and may begin its keys with.

    It has one rank, the largest of the file's, and one alpha: lower ranks are filled up with zeros, and what other
    alphas make of them goes into b. A layer that the file has for several of ours becomes a LoRA of each. What the file
    holds of text encoders is left out, and told on stderr. Raises InputError for what is no LoRA of this network.
    """
    path = _in_folder(path) if path.is_dir() else path
    if path.suffix != ".safetensors":
        rule = "only safetensors files are read, since a pickle can run code"
        raise InputError(f"{path}", rule, "convert it, or take the safetensors form")
    arrays, metadata = read_arrays(path)
    shapes = shapes_on_disk(network).items()
    kernels = {name: value for name, value in shapes if name.endswith(".kernel") and len(value.shape) == 2}
    layers = {entry.key.removesuffix(".weight"): name for name, entry in published_names(kernels, names).items()}
    shapes = {module: kernels[name].shape for module, name in layers.items()}
    pairs = _pairs(path, _of_generator(path, arrays))
    fused = _fused(path, pairs, shapes, part)
    try:
        settings = _settings(path, metadata, part)
        alphas = {module: _alpha(without_prefix(module, part), pair, settings) for module, pair in pairs.items()}
        segments = tuple(json.loads(metadata.get("segments", "[]")))
    except (AttributeError, KeyError, TypeError, ValueError, re.error) as error:
        rule = f"its LoRA settings cannot be read ({error})"
        raise InputError(f"{path}", rule, "copy or download it again") from None
    rank = max(pair.rank for pair in pairs.values())
    alphas = {module: value * (rank / pairs[module].rank) for module, value in alphas.items()}
    alpha = max(alphas.values(), key=abs) or 1.0
    weights = {}
    for module, pair in pairs.items():
        more, published = (0, rank - pair.rank), fused[module].modules
        scaled = np.float32(pair.b) * (alphas[module] / alpha)
        for each, b in zip(published, fused[module].split(scaled, [shapes[m][1] for m in published]), strict=True):
            prefix = f"{layers[each].removesuffix('.kernel')}.adapters.{NAME}"
            weights[f"{prefix}.a"] = np.pad(np.float32(pair.a).T, ((0, 0), more))
            weights[f"{prefix}.b"] = np.pad(b.T, (more, (0, 0)))
    targets = "|".join(sorted({re.escape(key.partition(".adapters.")[0]) for key in weights}))
    return NAME, AdapterOptions(rank, float(alpha), targets, segments), metadata.get("base", ""), weights


def _in_folder(folder):
    found = [folder / name for name in _IN_FOLDERS if (folder / name).exists()]
    if len(found) != 1:
        rule = f"a folder with a LoRA holds one file of the name {' or '.join(_IN_FOLDERS)}, this one {len(found)}"
        raise InputError(f"{folder}", rule, "name the file itself")
    return found[0]


class _Pair(NamedTuple):
    """What a file holds of one of its layers: a [rank, in], b [out, rank] and perhaps what is divided by the rank."""

    a: np.ndarray
    b: np.ndarray
    alpha: np.ndarray | None = None

    @property
    def rank(self):
        return len(self.a)


def _of_generator(path, arrays):
    """The arrays but those of text encoders."""
    found = {key: value for key, value in arrays.items() if not of_text_encoder(key)}
    left_out = len(arrays) - len(found)
    if left_out and not found:
        raise InputError(f"{path}", "it changes nothing but text encoders, which stay as they are here", _OURS)
    if left_out:
        print(f"{path}: {left_out} arrays are of text encoders and left out", file=sys.stderr)
    return found


def _pairs(path, arrays):
    """{layer, as the file spells it: its `_Pair`}."""
    for kind, keys in of_other_kinds(arrays).items():
        rule = f"it holds {kind} ({first(keys)}), which are not read"
        raise InputError(f"{path}", rule, "give a plain LoRA of linear layers, or convert it to one")
    parsed = {key: parse_key(key) for key in arrays}
    others = [key for key, found in parsed.items() if found is None]
    if others:
        rule = f"it holds arrays that are no LoRA's ({first(others)})"
        raise InputError(f"{path}", rule, "give a LoRA file, e.g. as the export command writes it")
    counts = Counter(parsed.values())
    _check_one_each(path, [module for (module, _), count in counts.items() if count > 1])
    leaves = defaultdict(dict)
    for key, (module, leaf) in parsed.items():
        leaves[module][leaf] = arrays[key]
    odd = [module for module, found in leaves.items() if not _are_pair(**found)]
    if odd or not leaves:
        rule = f"a LoRA has two arrays of one rank for a layer ({first(odd) or 'there is none'})"
        raise InputError(f"{path}", rule, "copy or download it again, or give another")
    return {module: _Pair(**found) for module, found in leaves.items()}


def _are_pair(a=None, b=None, alpha=None):
    return (
        a is not None
        and b is not None
        and a.ndim == b.ndim == 2
        and len(a) == b.shape[1] > 0
        and (alpha is None or alpha.size == 1)
    )


def _fused(path, pairs, shapes, part):
    """{layer, as the file spells it: what it is}. Raises InputError, in the file's names, unless all fit."""
    known = spellings(shapes)
    found = {module: known.get(without_prefix(module, part)) for module in pairs}
    sizes = {
        module: (shapes[fused.modules[0]][0], sum(shapes[each][1] for each in fused.modules))
        for module, fused in found.items()
        if fused
    }
    width = mode(size_in for size_in, _ in shapes.values())
    widths = {pairs[module].a.shape[1] for module, (size_in, _) in sizes.items() if size_in == width}
    if len(widths) == 1 and widths != {width}:
        (theirs,) = widths
        of = f", as of {WIDTHS[theirs]}" if theirs in WIDTHS else ""
        raise InputError(f"{path}", f"its width is {theirs}{of}; this generator's is {width}", _OURS)
    unknown = [module for module, fused in found.items() if not fused]
    if unknown:
        raise InputError(f"{path}", f"this generator has no such layers ({first(unknown)})", _OURS)
    given = {module: (pairs[module].a.shape[1], len(pairs[module].b)) for module in pairs}
    wrong = [
        f"{module} from {given[module][0]} to {given[module][1]}, here from {size_in} to {size_out}"
        for module, (size_in, size_out) in sizes.items()
        if given[module] != (size_in, size_out)
    ]
    if wrong:
        raise InputError(f"{path}", f"its layers are of other sizes ({first(wrong)})", _OURS)
    counts = Counter(each for fused in found.values() for each in fused.modules)
    _check_one_each(path, [m for m, fused in found.items() if any(counts[each] > 1 for each in fused.modules)])
    return found


def _check_one_each(path, twice):
    if twice:
        raise InputError(f"{path}", f"it holds several LoRAs of one layer ({first(twice)})", "keep one of them")


def _settings(path, metadata, part):
    """PEFT's settings: in the file, or in the one beside it where both are named as PEFT or our export names them."""
    beside = path.parent / CONFIG
    if _SETTINGS in metadata:
        settings = json.loads(metadata[_SETTINGS])
        return {key.removeprefix(f"{part}."): value for key, value in settings.items()}
    return json.loads(beside.read_bytes()) if path.name in _IN_FOLDERS and beside.exists() else {}


def _alpha(module, pair, settings):
    """What is divided by the rank; without a word about it the rank itself, as diffusers has it."""
    if pair.alpha is not None:
        return float(pair.alpha.item())
    patterns = (settings.get("alpha_pattern") or {}).items()
    pattern = next((value for key, value in patterns if re.match(rf"(.*\.)?({key})$", module)), None)
    alpha = float(settings.get("lora_alpha", pair.rank) if pattern is None else pattern)
    if not math.isfinite(alpha):
        raise ValueError(f"alpha {alpha}")
    return alpha * math.sqrt(pair.rank) if settings.get("use_rslora") else alpha
