"""The device mesh, and which axis of it each axis of a weight or a batch is spread over."""

import math
from collections.abc import Mapping

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from narrative_jax.core.errors import InputError, check_count, check_name

AXES = ("data", "fsdp", "tensor")
WEIGHT_RULES = {"embed": "fsdp", "mlp": "tensor", "heads": "tensor", "vocab": "tensor"}
BATCH_AXES = ("data", "fsdp")


def make_mesh(sizes: Mapping[str, int]) -> Mesh:
    """A mesh with the axes `data`, `fsdp` and `tensor` over all devices; one size may be -1 and takes what is left.

    Raises InputError for another axis, and where the sizes do not multiply to the number of devices.
    """
    for axis in sizes:
        check_name("mesh axis", axis, AXES)
    shape = {axis: sizes.get(axis, 1) for axis in AXES}
    devices, open_axes = jax.device_count(), [axis for axis in AXES if shape[axis] == -1]
    fixed = [size for size in shape.values() if size != -1]
    known = math.prod(fixed)
    if len(open_axes) > 1 or min(fixed, default=1) < 1 or devices % known or not (open_axes or known == devices):
        given = ", ".join(f"{axis} {size}" for axis, size in shape.items())
        rule = f"sizes are positive and multiply to the number of devices, {devices}; one may be -1 for what is left"
        raise InputError(f"mesh {given}", rule, "set data to -1 and the others to 1")
    filled = [devices // known if axis in open_axes else shape[axis] for axis in AXES]
    return jax.make_mesh(filled, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch(kind: str, batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raise InputError unless every device gets the same, whole number of examples in each of `accumulate` parts."""
    check_count(kind, batch_size, minimum=1)
    parts = accumulate * devices_of_batch(mesh)
    if batch_size % parts:
        rule = f"it is a multiple of {parts} (devices of the mesh's {' and '.join(BATCH_AXES)} axes × accumulation)"
        raise InputError(f"{kind} {batch_size}", rule, f"set {-(-batch_size // parts) * parts}")


def devices_of_batch(mesh: Mesh) -> int:
    """Over how many parts of the mesh a batch is spread."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis is spread over the mesh's `data` and `fsdp` axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def weight_shardings(axes: Mapping[str, tuple], shapes: Mapping[str, tuple], mesh: Mesh) -> dict[str, NamedSharding]:
    """A sharding for each weight from the names of its axes; an axis that does not divide evenly stays whole."""

    def spec(name):
        rules = [WEIGHT_RULES.get(axis) for axis in axes[name]]
        sizes = shapes[name]
        return PartitionSpec(*(r if r and n % mesh.shape[r] == 0 else None for r, n in zip(rules, sizes, strict=True)))

    return {name: NamedSharding(mesh, spec(name)) for name in shapes}
