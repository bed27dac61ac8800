"""The device mesh, and which of its axes each axis of a weight, a batch or an activation is spread over."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from narrative_jax.core.errors import InputError, check_count, check_name

AXES = ("data", "fsdp", "tensor", "context")
# What an axis of a weight is spread over: first choices are made for all of a weight's axes, then second ones of what
# is left, so that the narrow side of an adapter, which has no "embed", lies over fsdp as well.
WEIGHT_RULES = {"embed": ("fsdp",), "mlp": ("tensor", "fsdp"), "heads": ("tensor", "fsdp"), "vocab": ("tensor",)}
BATCH_AXES = ("data", "fsdp")
_current: ContextVar[Mesh | None] = ContextVar("mesh", default=None)


def make_mesh(sizes: Mapping[str, int], devices: Sequence | None = None) -> Mesh:
    """A mesh with the axes `AXES` over all devices, or over those given; one size may be -1 and takes what is left.

    `data` goes over slices first, since only gradients pass between them. `context` is the token axis of long
    sequences. Raises InputError for another axis, and where the sizes do not multiply to the number of devices.
    """
    for axis in sizes:
        check_name("mesh axis", axis, AXES)
    shape = {axis: sizes.get(axis, 1) for axis in AXES}
    devices = devices or jax.devices()
    count, open_axes = len(devices), [axis for axis in AXES if shape[axis] == -1]
    fixed = [size for size in shape.values() if size != -1]
    known = math.prod(fixed)
    if len(open_axes) > 1 or min(fixed, default=1) < 1 or count % known or not (open_axes or known == count):
        given = ", ".join(f"{axis} {size}" for axis, size in shape.items())
        rule = f"sizes are positive and multiply to the number of devices, {count}; one may be -1 for what is left"
        raise InputError(f"mesh {given}", rule, "set data to -1 and the others to 1")
    filled = [count // known if axis in open_axes else shape[axis] for axis in AXES]
    return Mesh(_arranged(filled, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def slices_of(devices: Sequence[Any]) -> int:
    """How many slices, which only the network connects, devices are of."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def _arranged(shape, devices):
    """The devices as an array in which neighbours on an axis are near each other; slices along `data`."""
    slices = slices_of(devices)
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    data, *others = shape
    if data % slices:
        rule = f"data goes over the slices, of which there are {slices}"
        raise InputError(f"mesh data {data}", rule, f"set a multiple of {slices}")
    between = (slices, *(1 for _ in others))
    return mesh_utils.create_hybrid_device_mesh((data // slices, *others), between, devices)


def in_parts(rows: Any, count: int) -> Any:
    """A tree of arrays [b, ...] as [count, b / count, ...]: parts to be done one after the other.

    Every `count`-th row makes a part, so that each device's share of a part is its own.
    """
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), rows)


def of_parts(parts: Any) -> Any:
    """The rows of `in_parts`, [b, ...], in order again."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), parts)


def own_mesh(sizes: Mapping[str, int]) -> Mesh:
    """A mesh for work that this process does alone: `make_mesh`, or, of several processes, over its own devices, of
    which `tensor` takes as many as it can of those that it should have.
    """
    if jax.process_count() == 1:
        return make_mesh(sizes)
    devices = jax.local_devices()
    return make_mesh({"data": 1, "fsdp": -1, "tensor": math.gcd(sizes.get("tensor", 1), len(devices))}, devices)


@contextmanager
def traced_on(mesh: Mesh) -> Iterator[None]:
    """What is traced within is for this mesh: `spread_tokens` and `platform` know it."""
    token = _current.set(mesh)
    try:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            yield
    finally:
        _current.reset(token)


def current_mesh() -> Mesh | None:
    """The mesh of `traced_on`, None outside of it."""
    return _current.get()


def platform() -> str:
    """That of the devices for which a program is traced: "cpu", "gpu" or "tpu"."""
    mesh = current_mesh()
    return mesh.devices.flat[0].platform if mesh else jax.default_backend()


def spread_tokens(x: jax.Array) -> jax.Array:
    """`x` f32[b, n, ...] with rows over the batch's axes of the mesh and tokens over `context`; the same x."""
    mesh = current_mesh()
    return x if mesh is None else jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, "context"))


def apply_spread(linear: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """`linear` of x [b, n, ...], where its kernel, or its table, is spread over fsdp along its output.

    Its rows go to the kernel and not the kernel to the rows: of few tokens an example they are the smaller.
    """
    mesh = current_mesh()
    if mesh is None:
        return linear(x)
    y = linear(jax.lax.with_sharding_constraint(x, PartitionSpec("data")))
    y = jax.lax.with_sharding_constraint(y, PartitionSpec("data", None, "fsdp"))
    return jax.lax.with_sharding_constraint(y, PartitionSpec(BATCH_AXES))


def check_batch(kind: str, batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raise InputError unless every device gets the same, whole number of examples in each of `accumulate` parts."""
    check_count(kind, batch_size, minimum=1)
    parts = accumulate * devices_of_batch(mesh)
    if batch_size % parts:
        rule = f"it is a multiple of {parts} (devices of the mesh's {' and '.join(BATCH_AXES)} axes × accumulation)"
        raise InputError(f"{kind} {batch_size}", rule, f"set {-(-batch_size // parts) * parts}")


def check_divided(divided: Mapping[str, Mapping[str, int]], mesh: Mapping[str, int]) -> None:
    """Raise InputError for an axis of a mesh of these sizes that does not divide what it cuts of a network.

    `divided` has, by axis, sizes by what they are of.
    """
    for axis, sizes in divided.items():
        for what, size in sizes.items():
            if size % mesh[axis]:
                known = [count for count in range(1, size + 1) if size % count == 0]
                nearest = min(known, key=lambda count: abs(count - mesh[axis]))
                rule = f"it divides the network's {what}, {size}"
                raise InputError(f"mesh {axis} {mesh[axis]}", rule, f"set {axis} to {nearest}")


def devices_of_batch(mesh: Mesh) -> int:
    """Over how many parts of the mesh a batch is spread."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis is spread over the mesh's `data` and `fsdp` axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def rows_here(mesh: Mesh, count: int) -> np.ndarray:
    """Which rows of a batch of so many lie on this process's devices, in order."""
    here, parts = _parts_here(batch_sharding(mesh))
    return np.arange(count).reshape(parts, -1)[here].ravel()


def to_devices(share: Any, sharding: NamedSharding) -> Any:
    """A batch spread as `batch_sharding` says, of which `share`, a pytree of arrays, holds the `rows_here`."""
    here, parts = _parts_here(sharding)
    if len(here) == parts:
        return jax.device_put(share, sharding)

    def place(rows):
        shape = (len(rows) // len(here) * parts, *rows.shape[1:])
        return jax.make_array_from_process_local_data(sharding, rows, shape)

    return jax.tree.map(place, share)


def _parts_here(sharding):
    """Which of the equal parts of a batch lie on this process's devices, in order, and how many there are."""
    parts = devices_of_batch(sharding.mesh)
    places = sharding.addressable_devices_indices_map((parts,)).values()
    return sorted({index[0].indices(parts)[0] for index in places}), parts


def placed_batch(mesh: Mesh, count: int, make: Callable[[np.ndarray], Any]) -> Any:
    """A batch of so many rows, spread over the mesh; `make` gives those that lie on this process's devices."""
    return to_devices(make(rows_here(mesh, count)), batch_sharding(mesh))


def spread(values: Any, shardings: Any) -> Any:
    """A pytree of arrays laid out as these shardings say. Of what all processes have, each device takes its part."""

    def place(value, sharding):
        if sharding.is_fully_addressable or not getattr(value, "is_fully_addressable", True):
            return jax.device_put(value, sharding)
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(place, values, shardings)


def spread_weights(params: Mapping[str, Any], axes: Mapping[str, tuple], mesh: Mesh) -> dict[str, jax.Array]:
    """Weights laid over the mesh by the names of their axes."""
    return spread(dict(params), weight_shardings(axes, {name: value.shape for name, value in params.items()}, mesh))


def laid_shapes(
    shapes: Mapping[str, jax.ShapeDtypeStruct], axes: Mapping[str, tuple], mesh: Mesh | None
) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Shapes of weights with their shardings over the mesh, for what reads or draws them; as they are without one."""
    if mesh is None:
        return shapes
    laid = weight_shardings(axes, {name: shape.shape for name, shape in shapes.items()}, mesh)
    return {name: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=laid[name]) for name, s in shapes.items()}


def gathered(value: jax.Array) -> np.ndarray:
    """The whole array on the host, in every process."""
    if value.is_fully_addressable or value.is_fully_replicated:
        return np.asarray(value)
    return multihost_utils.process_allgather(value, tiled=True)


def weight_shardings(axes: Mapping[str, tuple], shapes: Mapping[str, tuple], mesh: Mesh) -> dict[str, NamedSharding]:
    """A sharding for each weight from the names of its axes; an axis that does not divide evenly stays whole."""
    return {name: NamedSharding(mesh, _spec(axes[name], shapes[name], mesh)) for name in shapes}


def _spec(names, sizes, mesh):
    rules, over = [WEIGHT_RULES.get(name, ()) for name in names], [()] * len(names)
    for choice in range(max(map(len, WEIGHT_RULES.values()))):
        for place, (rule, size) in enumerate(zip(rules, sizes, strict=True)):
            taken = {axis for axes in over for axis in axes}
            wanted = (*over[place], *rule[choice : choice + 1])
            if (
                len(rule) > choice
                and rule[choice] not in taken
                and size % math.prod(mesh.shape[a] for a in wanted) == 0
            ):
                over[place] = wanted
    return PartitionSpec(*(axes[0] if len(axes) == 1 else axes or None for axes in over))
