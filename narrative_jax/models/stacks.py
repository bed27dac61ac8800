"""Equal blocks of a network as one: each weight is an array with a leading axis of blocks.

Such a weight's name has a `*` where a file numbers its blocks: "single_blocks.*.out.kernel" f32[blocks, in, out] is on
disk "single_blocks.0.out.kernel" f32[in, out] and so on. Blocks run in one compiled loop or one after the other, with
equal results.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.core.types import Params
from narrative_jax.models.attention import ATTENDED

EACH = "*"
# What of a block is kept for the gradient, and not worked out again from the block's input.
KEPT = {
    "all": None,
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENDED),
}


class Stack(nnx.Module):
    """`count` blocks as `build(rngs)` makes them; each layer is there once, with the weights of all blocks."""

    def __init__(self, build: Callable[[nnx.Rngs], nnx.Module], count: int, *, rngs: nnx.Rngs):
        self.count = count
        graphdef, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
        keys = jax.random.split(rngs.params(), count)
        state = jax.vmap(lambda key: nnx.split(build(nnx.Rngs(key)))[1])(keys)
        for variable in jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)):
            variable.set_metadata(axes=(None, *variable.axes))
        setattr(self, EACH, nnx.merge(graphdef, state))

    def run(
        self,
        body: Callable[[nnx.Module, Any, Any], tuple[Any, Any]],
        carry: Any,
        given: Any = None,
        *,
        count: int | None = None,
        scanned: bool = False,
        kept: str = "all",
    ) -> tuple[Any, Any]:
        """Through the first `count` blocks, or all, by `body(block, carry, given) -> (carry, found)`.

        Returns the last carry and all that was found, with a leading axis of blocks, as `given` has one; of a list,
        one for each block, a list. Where `scanned`, and with no list, the body is compiled once, as a loop; `kept` is a
        name of `KEPT`.
        """
        count = self.count if count is None else count
        graphdef, weights = nnx.split(getattr(self, EACH))
        weights = jax.tree.map(lambda x: x[:count], weights) if count < self.count else weights

        def step(carry, block):
            weights, given = block
            return body(nnx.merge(graphdef, weights), carry, given)

        if KEPT[kept]:
            step = jax.checkpoint(step, policy=KEPT[kept], prevent_cse=not scanned)
        found, listed = [], isinstance(given, list)
        if not listed and (scanned or not count):
            return jax.lax.scan(step, carry, (weights, given), count)
        for block in zip(_apart(weights, count), given if listed else _apart(given, count), strict=True):
            carry, new = step(carry, block)
            found.append(new)
        return carry, found if listed else jax.tree.map(lambda *parts: jnp.stack(parts), *found)

    def block(self, place: int) -> nnx.Module:
        """One block by itself."""
        graphdef, weights = nnx.split(getattr(self, EACH))
        return nnx.merge(graphdef, jax.tree.map(lambda x: x[place], weights))


def each_name(name: str, weight: Any) -> list[str]:
    """Names on disk of the blocks of a stacked weight, or of its layer; [name] of any other."""
    return [name.replace(EACH, f"{block}") for block in range(weight.shape[0])] if EACH in name else [name]


def unstacked(params: Mapping[str, Any]) -> dict[str, Any]:
    """Weights, or their shapes, by names on disk: those of a stack a block at a time."""
    found = {}
    for name, value in params.items():
        if EACH not in name:
            found[name] = value
        elif isinstance(value, jax.ShapeDtypeStruct):
            found |= dict.fromkeys(each_name(name, value), jax.ShapeDtypeStruct(value.shape[1:], value.dtype))
        else:
            found |= dict(zip(each_name(name, value), value, strict=True))
    return found


def shapes_on_disk(like: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types that these weights have on disk, by names on disk."""
    return unstacked({name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in like.items()})


def stacked(weights: Mapping[str, np.ndarray], like: Mapping[str, Any]) -> Params:
    """Weights from the disk with the names and shapes of `like`; blocks that are not there are 0."""

    def put(name, value):
        if EACH not in name:
            return weights[name]
        nothing = np.zeros(value.shape[1:], np.float32)
        return np.stack([weights.get(each, nothing) for each in each_name(name, value)])

    return {name: jnp.asarray(put(name, value)) for name, value in like.items()}


def _apart(tree, count):
    """Each block's part of arrays with a leading axis of blocks."""
    leaves, structure = jax.tree.flatten(tree)
    # Split and not indexed: the gradient of a split puts its parts together, that of an index adds up whole arrays.
    parts = [[part.squeeze(0) for part in jax.lax.split(leaf, [1] * count)] for leaf in map(jnp.asarray, leaves)]
    return [jax.tree.unflatten(structure, [part[place] for part in parts]) for place in range(count)]
