"""Published torch files without torch: the same tensors, and nothing but tensors."""

import builtins
import io
import os
import pickle
import re
import zipfile
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pytest

from narrative_jax.core.errors import InputError
from narrative_jax.models.torch_files import read_state

AESTHETIC = ("sa_0_4_vit_l_14_linear.pth", "sac+logos+ava1-l14-linearMSE.pth")


class Call:
    """Pickles as a call of a function, as an object's __reduce__ may ask for."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def write(tmp_path):
    """write(content, **storages): a file laid out as torch's, of a pickled object or of ready bytes."""

    def written(content, name="weights.pth", **storages):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as file:
            pickled = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
            file.writestr("archive/data.pkl", pickled)
            for key, data in storages.items():
                file.writestr(f"archive/data/{key}", data)
        return path

    return written


def saved(torch, path, state, **options):
    torch.save(state, path, **options)
    return path


def rebuilt(shape, strides, offset=0, function=b"torch._utils\n_rebuild_tensor_v2"):
    """The pickle of {"w": a tensor over FloatStorage "data" of 6 numbers}, as torch writes it."""
    file = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", value[0], "numbers", "cpu", 6) if isinstance(value, list) else None

    Pickler(file, 2).dump({"w": Call(os.getcwd, [os.getpid], offset, shape, strides, False, OrderedDict())})
    pickled = file.getvalue().replace(f"{os.name}\ngetcwd".encode(), function)
    return pickled.replace(f"{os.name}\ngetpid".encode(), b"torch\nFloatStorage")


@pytest.mark.parametrize("name", AESTHETIC)
def test_published_files_are_what_torch_reads(test_data, name):
    torch = pytest.importorskip("torch")
    path = test_data / "aesthetic" / name
    ours, theirs = read_state(path), torch.load(path, map_location="cpu", weights_only=True)
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert ours[key].dtype == np.float32
        np.testing.assert_array_equal(ours[key], value.numpy())


def test_all_types_views_and_parameters(tmp_path):
    torch = pytest.importorskip("torch")
    kinds = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    base = torch.arange(24).reshape(4, 6)
    state = {kind: base.to(getattr(torch, kind)) for kind in kinds}
    state |= {"view": base[1:, ::2].T, "scalar": torch.tensor(3.5), "empty": torch.zeros(2, 0)}
    state["parameter"] = torch.nn.Parameter(torch.ones(2))
    path = saved(torch, tmp_path / "weights.pt", {"state_dict": OrderedDict(state), "epoch": 3})
    found = read_state(path)
    assert found.keys() == state.keys()
    for kind in kinds:
        assert found[kind].dtype == (jnp.bfloat16 if kind == "bfloat16" else kind)
        np.testing.assert_array_equal(np.float64(found[kind]), state[kind].double().numpy())
    np.testing.assert_array_equal(found["view"], state["view"].numpy())
    assert found["scalar"].shape == () and float(found["scalar"]) == 3.5 and found["empty"].shape == (2, 0)
    np.testing.assert_array_equal(found["parameter"], [1, 1])


@pytest.mark.parametrize(
    "function, name, command",
    [(os.system, f"{os.name}.system", "touch {}"), (builtins.eval, "__builtin__.eval", "__import__('os').mkdir('{}')")],
)
def test_anything_but_tensors_is_refused_and_not_run(write, tmp_path, function, name, command):
    ran = tmp_path / "ran"
    path = write({"w": Call(function, command.format(ran))})
    with pytest.raises(InputError, match=rf"weights.pth: it asks for {re.escape(name)}, and only tensors are read"):
        read_state(path)
    assert not ran.exists()
    with zipfile.ZipFile(path) as file:
        pickle.loads(file.read("archive/data.pkl"))
    assert ran.exists()  # so the file was able to


def test_a_pickle_cannot_alter_what_it_is_given(write):
    """BUILD on a function sets its attributes; the next file must meet it as it was."""
    pickled = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__Ns\x86b."
    with pytest.raises(InputError, match="no readable torch file"):
        read_state(write(pickled))
    np.testing.assert_array_equal(read_state(good(write))["w"], np.arange(6).reshape(2, 3))


def good(write):
    return write(rebuilt((2, 3), (3, 1)), numbers=np.arange(6, dtype="<f4").tobytes())


@pytest.mark.parametrize(
    "shape, strides, offset",
    [((2, 4), (4, 1), 0), ((2, 3), (3, 1), 1), ((2, 3), (4, 1), 0), ((2, 3), (-3, 1), 3), ((10**9, 10**9), (0, 0), 0)],
)
def test_tensors_that_reach_beyond_their_storage(write, shape, strides, offset):
    path = write(rebuilt(shape, strides, offset), numbers=bytes(24))
    with pytest.raises(InputError, match="no readable torch file"):
        read_state(path)


@pytest.mark.parametrize("damage", [lambda d: d[:-9], lambda d: d[:300], lambda d: b"", lambda d: b"no pickle" * 20])
def test_damaged_files(write, damage):
    path = good(write)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"weights.pth: it is no readable torch file \(.+\); copy or download"):
        read_state(path)


def test_a_flipped_byte_is_found(test_data, tmp_path):
    data = bytearray((test_data / "aesthetic" / AESTHETIC[0]).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "weights.pth").write_bytes(data)
    with pytest.raises(InputError, match="no readable torch file"):
        read_state(tmp_path / "weights.pth")


@pytest.mark.parametrize("content", [b"no pickle", b"", b"\x80\x02}q\x00X\x09"])
def test_a_zip_with_no_pickle_in_it(write, content):
    with pytest.raises(InputError, match="no readable torch file"):
        read_state(write(content))


def test_other_files(write, tmp_path):
    path = tmp_path / "other.pth"
    with pytest.raises(InputError, match=r"other.pth: it is no readable torch file \(.*No such file"):
        read_state(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="it is a zip, but none of torch's"):
        read_state(path)
    for content in ([1, 2], {"w": 3.0}, {"a": {"b": None}}):
        with pytest.raises(InputError, match="it holds something else than tensors by name"):
            read_state(write(content))


def test_the_format_before_torch_1_6(tmp_path):
    torch = pytest.importorskip("torch")
    path = saved(torch, tmp_path / "old.pth", {"w": torch.ones(2)}, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"in torch's format from before 1\.6, which is not read; save it again"):
        read_state(path)
