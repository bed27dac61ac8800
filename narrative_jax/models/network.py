"""A network apart from its weights: structure here, weights in a flat dictionary by dotted path."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from narrative_jax.core.types import Params


@dataclass(frozen=True)
class Network:
    """The structure of an NNX module; `bind` gives it weights. `axes` names each weight's axes for sharding."""

    graphdef: nnx.GraphDef
    treedef: jax.tree_util.PyTreeDef
    axes: dict[str, tuple]

    def bind(self, params: Params) -> nnx.Module:
        """The module with these weights; cheap inside jit. `params` holds exactly the names in `axes`."""
        if params.keys() != self.axes.keys():
            odd = sorted(params.keys() ^ self.axes.keys())
            raise KeyError(f"weights and network differ in {len(odd)} names: {', '.join(odd[:3])}")
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, [params[name] for name in self.axes]))


def split(module: nnx.Module) -> tuple[Network, Params]:
    """A module as structure and weights."""
    graphdef, state = nnx.split(module)
    paths, treedef = jax.tree.flatten_with_path(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    names = {".".join(str(getattr(key, "key", key)) for key in path): variable for path, variable in paths}
    treedef = jax.tree.structure(state)
    axes = {name: tuple(variable.axes) for name, variable in names.items()}
    return Network(graphdef, treedef, axes), {name: variable.get_value() for name, variable in names.items()}


def abstract(build: Callable[[], nnx.Module]) -> tuple[Network, dict[str, jax.ShapeDtypeStruct]]:
    """Structure, shapes and types of what `build` would make, without making it."""
    return split(nnx.eval_shape(build))


def under(part: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The weights (axes, shapes, shardings) of a part, as the whole names them: "part.name"."""
    return {f"{part}.{name}": value for name, value in tree.items()}


def below(part: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the part of this name, as the part itself names them."""
    return {name.removeprefix(f"{part}."): value for name, value in tree.items() if name.startswith(f"{part}.")}
