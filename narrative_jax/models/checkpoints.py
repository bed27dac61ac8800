"""Weights on disk: safetensors in the published (torch) layouts and names, so that other libraries read them too.

Published torch files are read as well. A number that is not finite is found wherever weights are read.

A network's names are a table: `{"blocks.*.query": "encoder.layers.*.self_attn.q_proj"}` maps the arrays of a layer
(kernel, bias, scale, statistics), `{"token_embedding": Published("embeddings.token_embedding.weight")}` one array;
`*` stands for the same index on both sides.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import write_bytes
from narrative_jax.core.types import Params
from narrative_jax.models.known_files import recognise
from narrative_jax.models.stacks import EACH, each_name, shapes_on_disk, unstacked
from narrative_jax.models.torch_files import SUFFIXES, read_state

# A layout says, for each of our axes, which axis of the published array it is.
PLAIN = None
LINEAR = (1, 0)  # [out, in] -> [in, out]
CONV = (2, 3, 1, 0)  # OIHW -> HWIO
_KERNELS = {2: LINEAR, 4: CONV}  # by rank
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "slope": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}
_SHOWN = 3  # names in a message
_FLOATS_OF_8 = {"F8_E4M3": jnp.float8_e4m3fn, "F8_E5M2": jnp.float8_e5m2}  # numpy has none, so safetensors gives none
_TYPES = {"BOOL", "BF16", "F16", "F32", "F64", *(f"{kind}{bits}" for kind in "IU" for bits in (8, 16, 32, 64))}
_ANOTHER = "copy or download it again, or give another"
_BUFFERS = ("position_ids", "num_batches_tracked")  # torch's files may hold these beside the weights


class Published(NamedTuple):
    """Where a checkpoint keeps one array, and in which layout."""

    key: str
    layout: tuple[int, ...] | None = PLAIN


Names = Mapping[str, str | Published]


def published_names(params: Mapping[str, jax.Array | jax.ShapeDtypeStruct], names: Names) -> dict[str, Published]:
    """Key and layout of each of `params`, named as on disk.

    Raises KeyError for one that the table does not cover (a defect).
    """
    return {name: _published(name, len(value.shape), names) for name, value in params.items()}


def _published(name, rank, names):
    indices = [part for part in name.split(".") if part.isdigit()]
    pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
    entry = names.get(pattern)
    if entry is None:
        layer, _, leaf = pattern.rpartition(".")
        entry = Published(f"{names[layer]}.{_LEAVES[leaf]}", _KERNELS[rank] if leaf == "kernel" else PLAIN)
    for index in indices:
        entry = entry._replace(key=entry.key.replace("*", index, 1))
    return entry


def save_weights(
    path: str | Path, params: Params, names: Names, dtype=jnp.bfloat16, metadata: Mapping[str, str] | None = None
) -> None:
    """Write `params` as one safetensors file, whole or not at all. Raises InputError where it cannot be written."""
    tensors, params = {}, unstacked(params)
    for name, (key, layout) in published_names(params, names).items():
        value = np.asarray(jnp.asarray(params[name], dtype))
        value = value if layout is PLAIN else value.transpose(np.argsort(layout))
        tensors[key] = np.asarray(value, order="C")  # safetensors writes memory as it lies, views in the wrong order
    # readers of the published formats ask for "format"
    write_bytes(path, save(tensors, metadata={"format": "pt", **(metadata or {})}))


def load_weights(
    path: str | Path,
    like: Mapping[str, jax.Array | jax.ShapeDtypeStruct],
    names: Names,
    dtype=jnp.float32,
    fused: Mapping[str, Sequence[str]] | None = None,
) -> Params:
    """Weights with the names, shapes and shardings of `like`; each device reads only its own part from the disk.

    `path` is a safetensors file, the index (.json) of several, or a torch file, which is read whole. `fused` maps the
    end of a key to those of its equal parts along the first axis, which `names` then speaks of. Raises InputError
    unless the files are whole and hold exactly these arrays, of finite numbers.
    """
    on_disk = shapes_on_disk(like)
    published = published_names(on_disk, names)
    with ExitStack() as stack:
        slices = _apart(_slices(path, stack), fused or {})
        found = {key: part.get_shape() for key, part in slices.items()}
        check_arrays(path, found, {entry.key: _shape(on_disk[name].shape, entry) for name, entry in published.items()})

        def read(name):
            entries = [published[each] for each in each_name(name, like[name])]
            return _read(path, slices, entries, like[name], EACH in name, dtype)

        return {name: read(name) for name in like}


def read_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays of a safetensors file by key, and its metadata.

    Raises InputError for an unreadable file and for numbers that are not finite.
    """
    with _open(path) as file:
        arrays = {key: _finite(path, key, np.asarray(part[...])) for key, part in _parts(path, file).items()}
        return arrays, file.metadata() or {}


def stored_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of a file that `load_weights` reads, by published name. Raises InputError as that does."""
    with ExitStack() as stack:
        return {key: tuple(part.get_shape()) for key, part in _slices(path, stack).items()}


class _Whole(np.ndarray):
    """An array in memory that reads as a slice of safetensors does."""

    def get_shape(self):
        return list(self.shape)


class _Part:
    """One of `count` equal parts of a slice along its first axis."""

    def __init__(self, whole, place, count):
        size, *self._rest = whole.get_shape()
        self._whole, self._size = whole, size // count
        self._start = place * self._size

    def get_shape(self):
        return [self._size, *self._rest]

    def __getitem__(self, index):
        start, stop, _ = index[0].indices(self._size)
        return self._whole[(slice(self._start + start, self._start + stop), *index[1:])]


def _apart(slices, fused):
    found = {}
    for key, part in slices.items():
        end = next((end for end in fused if key.endswith(end)), None)
        names = fused.get(end, ())
        found |= {key.removesuffix(end) + name: _Part(part, i, len(names)) for i, name in enumerate(names)}
        found |= {} if names else {key: part}
    return found


def _slices(path, stack):
    """Each array of the files by key, not read yet where they are safetensors."""
    if Path(path).suffix in SUFFIXES:
        found = {key: value.view(_Whole) for key, value in read_state(path).items()}
    else:
        found = {}
        for file in _files(Path(path)):
            found |= _parts(file, stack.enter_context(_open(file)))
    return {key: part for key, part in found.items() if not key.endswith(_BUFFERS)}


def _files(path):
    if path.suffix != ".json":
        return [path]
    try:
        return sorted({path.parent / file for file in json.loads(path.read_text())["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise _unreadable(path, error) from None


def _open(path):
    try:
        return safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


def _parts(path, file):
    """Each array of an open file by key, not read yet."""
    parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
    types = {key: part.get_dtype() for key, part in parts.items()}
    for key, kind in types.items():
        if kind not in _TYPES and kind not in _FLOATS_OF_8:
            raise InputError(f"{path}", f"{key} is of type {kind}, which is not read", "convert it, e.g. to bfloat16")
    of_8 = {key: _FLOATS_OF_8[kind] for key, kind in types.items() if kind in _FLOATS_OF_8}
    return parts | (_mapped(path, of_8) if of_8 else {})


def _mapped(path, types):
    """The arrays of these types in a safetensors file, as they lie on the disk."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", 8 + size)
    return {
        key: data[slice(*header[key]["data_offsets"])].view(kind).reshape(header[key]["shape"]).view(_Whole)
        for key, kind in types.items()
    }


def _finite(path, key, value):
    """The array itself. Raises InputError unless all its numbers are finite."""
    wrong = value.size - np.count_nonzero(np.isfinite(value))
    if wrong:
        raise InputError(f"{path}", f"{wrong} of the {value.size} numbers of {key} are not finite", _ANOTHER)
    return value


def _unreadable(path, error):
    return InputError(f"{path}", f"it is no readable weights file ({error})", _ANOTHER)


def _shape(shape, published):
    return list(shape) if published.layout is PLAIN else [shape[axis] for axis in np.argsort(published.layout)]


def check_arrays(path: str | Path, found: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise InputError unless the names and shapes found in a file are those of `shapes`.

    It says what the file is of, where that is known, and names a few arrays that differ.
    """
    found, shapes = ({key: list(shape) for key, shape in each.items()} for each in (found, shapes))
    both = found.keys() & shapes.keys()
    wrong = [f"{key} {found[key]} for {shapes[key]}" for key in both if found[key] != shapes[key]]
    problems = {
        "missing": shapes.keys() - found.keys(),
        "unexpected": found.keys() - shapes.keys(),
        "of another shape": wrong,
    }
    told = ", ".join(f"{len(keys)} {kind} ({first(keys)})" for kind, keys in problems.items() if keys)
    if not told:
        return
    given, asked = recognise(found), recognise(shapes)
    rule, remedy = "its arrays are not this network's", "give weights of this architecture and size"
    if given != asked:
        what = "no network that is known here" if given is None else given
        rule = f"by its arrays it is {what}, not {asked or 'this network'}"
        remedy = f"give weights of {asked}" if asked else remedy
    if given and asked and given.known and given.kind == asked.kind and given != asked:
        remedy += f", or ask for {given.size}"
    raise InputError(f"{path}", f"{rule}: {told}", remedy)


def first(keys: Collection[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(sorted(keys)[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")


def _read(path, slices, entries, like, is_stacked, dtype):
    """One array, each device's piece straight from the files: of a stack, a published array a block."""

    def piece(index):
        if not is_stacked:
            return block(entries[0], index)
        mine = entries[index[0]]
        return np.stack([block(entry, index[1:]) for entry in mine]) if mine else np.zeros(like.shape, dtype)

    def block(entry, index):
        axes = tuple(range(len(index))) if entry.layout is PLAIN else entry.layout
        theirs = tuple(index[ours] for ours in np.argsort(axes))
        with np.errstate(over="ignore"):  # what the type cannot hold becomes infinite, and is told as that
            value = slices[entry.key][theirs].transpose(axes).astype(dtype)
        return _finite(path, entry.key, value)

    sharding = like.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.make_array_from_callback(like.shape, sharding, piece, dtype)
