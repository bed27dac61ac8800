"""Meshes, and what is spread over them; equality of results on them is in test_algorithms and test_training."""

from dataclasses import dataclass

import jax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from narrative_jax.core import mesh as meshes
from narrative_jax.core.errors import InputError
from narrative_jax.core.mesh import (
    AXES,
    batch_sharding,
    check_batch,
    check_divided,
    make_mesh,
    own_mesh,
    weight_shardings,
)

CUBE = AbstractMesh((2, 2, 2, 1), AXES)


@pytest.mark.parametrize("sizes", [{}, {"data": -1}, {"data": 1, "fsdp": -1}, {"data": 1, "fsdp": 1, "tensor": 1}])
def test_one_device(sizes):
    mesh = make_mesh(sizes)
    assert mesh.axis_names == AXES and mesh.devices.shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({"data": -1}, (8, 1, 1, 1)),
        ({"data": 2, "fsdp": -1}, (2, 4, 1, 1)),
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2, 1)),
        ({"data": 2, "tensor": 2, "context": -1}, (2, 1, 2, 2)),
    ],
)
def test_eight_devices(eight, sizes, shape):
    mesh = make_mesh(sizes)
    assert mesh.devices.shape == shape and mesh.axis_names == AXES
    assert set(mesh.devices.flat) == set(eight)
    assert make_mesh(sizes, eight) == mesh


@dataclass(frozen=True)
class Device:
    """What a mesh asks of a device."""

    id: int
    slice_index: int = 0
    platform: str = "cpu"
    device_kind: str = "cpu"
    process_index: int = 0


@pytest.fixture
def eight(monkeypatch):
    devices = [Device(number) for number in range(8)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    return devices


@pytest.mark.parametrize(
    ("tensor", "shape"), [(1, (1, 8, 1, 1)), (4, (1, 2, 4, 1)), (12, (1, 2, 4, 1)), (-1, (1, 8, 1, 1))]
)
def test_one_of_several_processes_has_its_own(eight, monkeypatch, tensor, shape):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "local_devices", lambda: eight)
    assert own_mesh({"data": 2, "fsdp": 1, "tensor": tensor}).devices.shape == shape


def test_slices_lie_along_data():
    devices = [Device(number, slice_index=number // 4) for number in range(8)]
    mesh = make_mesh({"data": 4, "fsdp": 2}, devices)
    assert [[d.slice_index for d in row.flat] for row in mesh.devices] == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(InputError, match="mesh data 1: data goes over the slices, of which there are 2; set"):
        make_mesh({"data": 1, "fsdp": -1}, devices)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3}, r"mesh data 3, fsdp 1, tensor 1, context 1: .* the number of devices, 8"),
        ({"data": 4}, "one may be -1"),
        ({"data": 16}, "multiply"),
        ({"data": -1, "fsdp": 3}, "multiply"),
        ({"data": -1, "fsdp": -1}, r"mesh data -1, fsdp -1, tensor 1, context 1"),
        ({"data": 0}, "positive"),
        ({"data": -1, "fsdp": 0}, "positive"),
        ({"data": -2, "fsdp": -4}, "positive"),
        ({"dta": 8}, "unknown mesh axis 'dta'.*did you mean 'data'"),
    ],
)
def test_devices_that_do_not_fit(eight, sizes, message):
    with pytest.raises(InputError, match=message):
        make_mesh(sizes)


def test_a_batch_divides_the_devices_and_the_parts():
    check_batch("batch_size", 8, CUBE)
    check_batch("batch_size", 16, CUBE, accumulate=4)
    for size, accumulate, remedy in ((6, 1, "set 8"), (8, 4, "set 16"), (1, 1, "set 4")):
        with pytest.raises(InputError, match=rf"batch_size {size}: it is a multiple of .*; {remedy}$"):
            check_batch("batch_size", size, CUBE, accumulate)
    with pytest.raises(InputError, match="batch_size 0"):
        check_batch("batch_size", 0, CUBE)


def test_what_does_not_divide_says_what_would():
    check_divided({"tensor": {"heads": 24}}, CUBE.shape)
    mesh = AbstractMesh((1, 1, 5, 1), AXES)
    with pytest.raises(InputError, match="mesh tensor 5: it divides the network's heads, 24; set tensor to 4"):
        check_divided({"tensor": {"heads": 24}}, mesh.shape)


def test_weights_are_spread_where_they_divide():
    axes = {
        "a": ("embed", "mlp"),
        "out": ("heads", "embed"),
        "odd": ("embed", "heads"),
        "free": (None, "vocab"),
        "wide": (None, None, "mlp"),  # of an adapter, over fsdp as well
        "narrow": ("heads", None),
        "scale": (),
    }
    shapes = {
        "a": (4, 6),
        "out": (4, 4),
        "odd": (3, 2),
        "free": (5, 8),
        "wide": (9, 3, 8),
        "narrow": (6, 3),
        "scale": (),
    }
    specs = {name: sharding.spec for name, sharding in weight_shardings(axes, shapes, CUBE).items()}
    assert specs == {
        "a": PartitionSpec("fsdp", "tensor"),
        "out": PartitionSpec("tensor", "fsdp"),
        "odd": PartitionSpec(None, "tensor"),
        "free": PartitionSpec(None, "tensor"),
        "wide": PartitionSpec(None, None, ("tensor", "fsdp")),
        "narrow": PartitionSpec("tensor", None),  # 6 do not divide by 4
        "scale": PartitionSpec(),
    }
    assert batch_sharding(CUBE).spec == PartitionSpec(("data", "fsdp"))
    assert meshes.replicated(CUBE).spec == PartitionSpec()
