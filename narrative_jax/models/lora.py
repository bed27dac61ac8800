"""Low-rank adapters (Hu et al. 2021), stacked by name on the linear layers of a network."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save

from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.files import write_bytes
from narrative_jax.core.mesh import gathered
from narrative_jax.core.options import parse
from narrative_jax.core.types import Params, Segment
from narrative_jax.models.checkpoints import check_arrays, read_arrays
from narrative_jax.models.layers import Linear
from narrative_jax.models.network import Network, split
from narrative_jax.models.stacks import EACH, each_name, stacked, unstacked


@dataclass(frozen=True)
class AdapterOptions:
    """What an adapter is made with; see `append_adapter`."""

    rank: int
    alpha: float
    targets: str
    segments: tuple[str, ...] = ()
    seed: int = 0


class Lora(nnx.Module):
    """Adds (alpha / rank) · x · a · b on the tokens of its `segments` (all tokens where it names none).

    Of a stacked layer `picked`, a bool a block, says which blocks' it adapts.
    """

    def __init__(self, layer, rank, alpha, segments: Sequence[str], picked=None, *, rngs: nnx.Rngs):
        *blocks, size_in, size_out = layer.kernel.shape
        *of_blocks, axis_in, axis_out = layer.kernel.axes
        self.scale = alpha / rank
        self.segments = tuple(segments)
        a = jax.random.normal(rngs.params(), (*blocks, size_in, rank)) / rank
        # With a and b 0 neither has a gradient: blocks that are not picked stay as they are.
        a = a if picked is None else a * np.float32(picked)[:, None, None]
        self.a = nnx.LoRAParam(a, axes=(*of_blocks, axis_in, None))
        self.b = nnx.LoRAParam(jnp.zeros((*blocks, rank, size_out)), axes=(*of_blocks, None, axis_out))

    def add_to(self, y: jax.Array, x: jax.Array, segments: Sequence[Segment]) -> jax.Array:
        """`y`, the layer's output for `x`, with this adapter's part added."""
        mine = [s for s in segments if not self.segments or s.name in self.segments]
        if len(mine) == len(segments):
            return y + self._delta(x)
        if mine and x.shape[-2] != segments[-1].stop:
            kinds = " and ".join(s.name for s in segments)
            rule = f"one modulation serves {kinds} tokens together"
            raise InputError(f"segments {self.segments}", rule, "name all of them, or leave modulation out of targets")
        for s in mine:
            y = y.at[..., s.start : s.stop, :].add(self._delta(x[..., s.start : s.stop, :]))
        return y

    def _delta(self, x):
        return _widen(self.scale * (x @ self.a.astype(x.dtype)), self.b.astype(x.dtype))


@jax.custom_vjp
def _widen(narrow, b):
    """narrow f32[..., rank] · b. JAX's own gradient of b transposes the wide side, [..., out]; this one the narrow."""
    return narrow @ b


def _widen_forward(narrow, b):
    return narrow @ b, (narrow, b)


def _widen_backward(kept, gradient):
    narrow, b = kept
    tokens = list(range(narrow.ndim - 1))
    return gradient @ b.T, jnp.tensordot(narrow, gradient, (tokens, tokens))


_widen.defvjp(_widen_forward, _widen_backward)


def append_adapter(
    model: nnx.Module,
    name: str,
    *,
    rank: int,
    alpha: float,
    targets: str,
    segments: Sequence[str],
    seed: int,
) -> None:
    """Append an adapter with b = 0 to every linear layer whose dotted path matches the regex `targets`, in place.

    Blocks of a stack are named as on disk, by number; those that `targets` leave out get an a of 0 too, which stays.

    Raises InputError for a name that is taken or has dots, targets that match nothing, and a rank below 1 or beyond
    that of every layer's kernel.
    """
    check_count("rank", rank, minimum=1)
    layers = _linear_layers(model)
    if "." in name or any(name in layer.adapters for _, layer in layers):
        raise InputError(f"adapter {name!r}", "names in a stack differ and have no dots", "choose another name")
    try:
        matched = [(layer, picked) for path, layer in layers if any(picked := _picked(path, layer, targets))]
    except re.error as error:
        rule = f"they are a regular expression ({error})"
        raise InputError(f"targets {targets!r}", rule, "write .* for anything, e.g. '.*to_[qkv]'") from None
    if not matched:
        raise InputError(f"targets {targets!r}", "they match dotted paths of linear layers", "see lora.linear_paths")
    most = max(min(layer.kernel.shape[-2:]) for layer, _ in matched)
    if rank > most:
        rule = f"the kernels that it adapts have ranks up to {most}, and more changes nothing"
        raise InputError(f"rank {rank}", rule, f"give one up to {most}")
    rngs = nnx.Rngs(seed)
    for layer, picked in matched:
        layer.adapters[name] = Lora(layer, rank, alpha, segments, picked if len(picked) > 1 else None, rngs=rngs)


def with_adapter(network: Network, params: Params, name: str, **adapter) -> tuple[Network, Params]:
    """The network with a fresh adapter on top of its stack, and its weights; see `append_adapter`."""
    module = network.bind(params)
    append_adapter(module, name, **adapter)
    return split(module)


def linear_paths(model: nnx.Module) -> list[str]:
    """Dotted paths of the layers that can carry adapters, those of stacks a block at a time."""
    return [each for path, layer in _linear_layers(model) for each in each_name(path, layer.kernel)]


def _linear_layers(model):
    modules = nnx.iter_modules(model)
    return [(".".join(map(str, path)), module) for path, module in modules if isinstance(module, Linear)]


def _picked(path, layer, targets):
    return [bool(re.fullmatch(targets, each)) for each in each_name(path, layer.kernel)]


def adapter_of(name: str) -> str | None:
    """Name of the adapter that a weight belongs to, by the weight's dotted path; None for the base's own."""
    found = re.search(r"\.adapters\.([^.]+)\.", name)
    return found.group(1) if found else None


def adapter_weights(params: Params, name: str) -> Params:
    """The weights of adapter `name`, by names on disk; blocks that it does not adapt, whose a is 0, have none."""
    mine = unstacked({key: np.asarray(value) for key, value in params.items() if adapter_of(key) == name})
    return {key: np.ascontiguousarray(value) for key, value in mine.items() if mine[f"{key[:-1]}a"].any()}


def with_adapter_weights(path: str | Path, params: Params, name: str, weights: Params) -> Params:
    """`params`, where adapter `name` is fresh, with its weights as they were in the file of this path.

    Raises InputError for those of another network, rank or targets.
    """
    fresh = adapter_weights(params, name)
    check_arrays(path, *({key: value.shape for key, value in each.items()} for each in (weights, fresh)))
    return params | stacked(weights, {key: value for key, value in params.items() if adapter_of(key) == name})


def save_adapter(path: str | Path, params: Params, name: str, options: AdapterOptions, base: str) -> None:
    """Write the weights of adapter `name` with the options it was made with, and the base's hash."""
    weights = adapter_weights(params, name)
    description = {"name": name, "base": base, "made_with": json.dumps(asdict(options))}
    write_bytes(path, save(weights, metadata=description))


def read_adapter(path: str | Path) -> tuple[str, AdapterOptions, str, Params]:
    """Name, options, the base's hash and the weights, by names on disk. Raises InputError for an unreadable file."""
    weights, description = read_arrays(path)
    try:
        options = parse(AdapterOptions, json.loads(description["made_with"]), "what it was made with")
        return description["name"], options, description["base"], weights
    except (KeyError, TypeError, ValueError) as error:
        rule = f"it is no adapter ({error or type(error).__name__})"
        raise InputError(f"{path}", rule, "train or copy it again") from None


def without_effect(params: Params, name: str) -> Params:
    """All weights, with adapter `name` as it was before its training: b is 0."""
    fresh = {key for key in params if adapter_of(key) == name and key.endswith(".b")}
    return {key: np.zeros_like(value) if key in fresh else value for key, value in params.items()}


def joined(adapters: Sequence[tuple[AdapterOptions, Params]]) -> tuple[AdapterOptions, Params]:
    """One adapter, by names on disk, that does what these do one on top of the other: ranks add up, alphas go into b.

    A layer that one of them leaves out has zeros for it. Raises InputError where they act on different tokens.
    """
    (*_, (last, named)), kinds = adapters, {options.segments for options, _ in adapters}
    if len(kinds) > 1:
        told = " and on ".join(", ".join(segments) or "all" for segments in sorted(kinds))
        rule = "one LoRA acts on the same tokens everywhere"
        raise InputError(f"adapters on {told} tokens", rule, "train them with the same segments")
    name, parts = adapter_of(next(iter(named))), []
    for options, weights in adapters:
        scales = {"a": 1.0, "b": options.alpha / options.rank}
        parts.append({_of(key, name): scales[key[-1]] * np.float32(value) for key, value in weights.items()})
    ranks, whole = [options.rank for options, _ in adapters], {}
    for key in dict.fromkeys(key for part in parts for key in part):
        axis = 1 if key.endswith(".a") else 0  # that of the rank
        size = next(part[key].shape[1 - axis] for part in parts if key in part)
        empty = [np.zeros((rank, size) if axis == 0 else (size, rank), np.float32) for rank in ranks]
        whole[key] = np.concatenate([part.get(key, none) for part, none in zip(parts, empty, strict=True)], axis)
    return replace(last, rank=sum(ranks), alpha=float(sum(ranks))), whole


def _of(key, name):
    return re.sub(r"\.adapters\.[^.]+\.", f".adapters.{name}.", key)


def fingerprint(params: Params) -> str:
    """A hash of weights, the same on every machine and mesh, whether blocks are stacked or not.

    It is worked out where they lie: nothing is moved, and a spread array is read once by each device that has a part.
    """
    marks = {}
    for name, value in params.items():
        names = each_name(name, value)
        marks |= zip(names, gathered(_marks(value, EACH in name)).reshape(len(names), -1), strict=True)
    digest = hashlib.sha256()
    for name, mark in sorted(marks.items()):
        digest.update(name.encode() + mark.astype("<u4").tobytes())
    return digest.hexdigest()[:16]


@partial(jax.jit, static_argnums=1)
def _marks(value, is_stacked):
    """Sums u32[2] over all numbers of a hash of each one's bits and place; [blocks, 2] where stacked.

    Sums of integers are the same in any order, so on any number of devices.
    """
    bits, axes = jax.lax.bitcast_convert_type(value.astype(jnp.float32), jnp.uint32), range(is_stacked, value.ndim)
    place = jnp.uint32(0)
    for axis in axes:
        place = place * np.uint32(value.shape[axis]) + jax.lax.broadcasted_iota(jnp.uint32, value.shape, axis)
    lanes = [_mixed(bits + _mixed(place + np.uint32(salt))) for salt in (0x9E3779B9, 0x7F4A7C15)]
    return jnp.stack([lane.sum(tuple(axes), dtype=jnp.uint32) for lane in lanes], -1)


def _mixed(x):
    """The last steps of MurmurHash3: each bit of x u32[...] changes about half of the bits."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * np.uint32(factor)
    return x ^ (x >> 16)
