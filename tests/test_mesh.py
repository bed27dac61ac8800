"""Meshes, and what is spread over them; equality of results on them is in test_algorithms and test_training."""

import jax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from narrative_jax.core import mesh as meshes
from narrative_jax.core.errors import InputError
from narrative_jax.core.mesh import AXES, batch_sharding, check_batch, make_mesh, weight_shardings

CUBE = AbstractMesh((2, 2, 2), AXES)


@pytest.mark.parametrize("sizes", [{}, {"data": -1}, {"data": 1, "fsdp": -1}, {"data": 1, "fsdp": 1, "tensor": 1}])
def test_one_device(sizes):
    mesh = make_mesh(sizes)
    assert mesh.axis_names == AXES and mesh.devices.shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [({"data": -1}, (8, 1, 1)), ({"data": 2, "fsdp": -1}, (2, 4, 1)), ({"data": 2, "fsdp": 2, "tensor": 2}, (2, 2, 2))],
)
def test_eight_devices(monkeypatch, sizes, shape):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(jax, "make_mesh", lambda shape, axes, axis_types: (tuple(shape), axes))
    assert make_mesh(sizes) == (shape, AXES)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3}, r"mesh data 3, fsdp 1, tensor 1: .* the number of devices, 8"),
        ({"data": 4}, "one may be -1"),
        ({"data": 16}, "multiply"),
        ({"data": -1, "fsdp": 3}, "multiply"),
        ({"data": -1, "fsdp": -1}, r"mesh data -1, fsdp -1, tensor 1"),
        ({"data": 0}, "positive"),
        ({"data": -1, "fsdp": 0}, "positive"),
        ({"data": -2, "fsdp": -4}, "positive"),
        ({"dta": 8}, "unknown mesh axis 'dta'.*did you mean 'data'"),
    ],
)
def test_devices_that_do_not_fit(monkeypatch, sizes, message):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
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


def test_weights_are_spread_where_they_divide():
    axes = {"a": ("embed", "mlp"), "odd": ("embed", "heads"), "free": (None, "vocab"), "scale": ()}
    shapes = {"a": (4, 6), "odd": (3, 2), "free": (5, 8), "scale": ()}
    specs = {name: sharding.spec for name, sharding in weight_shardings(axes, shapes, CUBE).items()}
    assert specs == {
        "a": PartitionSpec("fsdp", "tensor"),
        "odd": PartitionSpec(None, "tensor"),
        "free": PartitionSpec(None, "tensor"),
        "scale": PartitionSpec(),
    }
    assert batch_sharding(CUBE).spec == PartitionSpec(("data", "fsdp"))
    assert meshes.replicated(CUBE).spec == PartitionSpec()
