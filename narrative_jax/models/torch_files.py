"""Tensors out of published torch files (.pth, .pt, .bin), without torch and without running what a file asks for.

Such a file is a zip of a pickle and of raw storages. A pickle names the functions that it wants called, so only those
that make tensors are known here, as functions of ours; any other name ends the reading.
"""

import pickle
import zipfile
from collections import OrderedDict
from io import BytesIO
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from narrative_jax.core.errors import InputError

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
_TYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's number for its older format, as a pickle
_AGAIN = "copy or download it again, or give another"


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name; of the one under "state_dict", where a file holds more than that.

    Raises InputError for a file that is missing or damaged, asks for anything but tensors, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as file:
            content = _Reader(path, file).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle makes the unpickler raise nearly anything
        raise _unreadable(path, error) from None
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, np.ndarray) for value in content.values()):
        raise InputError(f"{path}", "it holds something else than tensors by name", "save its state_dict() alone")
    return dict(content)


def _unreadable(path, error):
    try:
        with open(path, "rb") as file:
            if file.read(len(_BEFORE_1_6)) == _BEFORE_1_6:
                rule = "it is in torch's format from before 1.6, which is not read"
                return InputError(f"{path}", rule, "save it again with a newer torch")
    except OSError:
        pass
    return InputError(f"{path}", f"it is no readable torch file ({error or type(error).__name__})", _AGAIN)


class _Reader(pickle.Unpickler):
    """Reads the pickle in a zip of torch's, knowing tensors, their storages and ordered dictionaries."""

    def __init__(self, path, file):
        inside = [name for name in file.namelist() if name.endswith("/data.pkl")]
        if len(inside) != 1:
            raise InputError(f"{path}", "it is a zip, but none of torch's", _AGAIN)
        super().__init__(BytesIO(file.read(inside[0])))
        self._path, self._file, self._folder = path, file, inside[0].removesuffix("data.pkl")
        self._storages = {}

    def find_class(self, module, name):
        if module == "torch" and name in _TYPES:
            return name
        # Methods take no new attributes, so that a pickle cannot alter what it was given.
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
        }
        if (module, name) not in known:
            rule = f"it asks for {module}.{name}, and only tensors are read from such files"
            raise InputError(f"{self._path}", rule, "do not trust it; give a state dict, or safetensors")
        return known[module, name]

    def persistent_load(self, pid):
        _, kind, key, _, _ = pid
        if key not in self._storages:
            self._storages[key] = np.frombuffer(self._file.read(f"{self._folder}data/{key}"), _TYPES[kind])
        return self._storages[key]

    def _tensor(self, storage, offset, shape, strides, *_):
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        sizes = (offset, *shape, *strides)
        count = np.prod(shape, dtype=object)
        if not all(isinstance(size, int) and size >= 0 for size in sizes) or count > len(storage):
            raise ValueError(f"a tensor of {list(shape)} in {len(storage)} numbers")
        if count and last >= len(storage):
            raise ValueError(f"a tensor that ends at {last} of {len(storage)} numbers")
        if not count:
            return np.zeros(shape, storage.dtype)
        strides = [stride * storage.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)

    def _parameter(self, tensor, *_):
        return tensor
