"""FLOPs of a traced program: of its matrix products and convolutions, loops by their length.

A compiler's own count takes a loop's body once and kernels for nothing. Here every product of the trace counts, two
FLOPs a multiplication: what each network does forward, backward only where a gradient is asked for (that of a frozen
weight is not), and what is worked out again is in the trace once more.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax.interpreters import partial_eval


class Flops(NamedTuple):
    """`spread` are of the program as a whole, over all its chips; `local` are of each chip, inside `shard_map`."""

    spread: int = 0
    local: int = 0

    def per_chip(self, chips: int) -> float:
        """Of one of so many chips."""
        return self.spread / chips + self.local


def live(closed: Any) -> Any:
    """The jaxpr of a closed one without what no result needs, as compilers leave it out."""
    return partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)[0]


def flops(jaxpr: Any, times: int = 1, local: bool = False) -> Flops:
    """Those of a jaxpr, run so many times; of branches the dearest counts, of a loop of unknown length one pass."""
    spread_sum, local_sum = 0, 0
    for equation in jaxpr.eqns:
        mine = times * _own(equation)
        spread_sum, local_sum = (spread_sum, local_sum + mine) if local else (spread_sum + mine, local_sum)
        name, parts = equation.primitive.name, list(inner_jaxprs(equation))
        inside = [flops(part, times * runs(equation), local or name == "shard_map") for part in parts]
        for found in [max(inside)] if name == "cond" else inside:
            spread_sum, local_sum = spread_sum + found.spread, local_sum + found.local
    return Flops(spread_sum, local_sum)


def runs(equation: Any) -> int:
    """How often an equation runs what is inside of it."""
    if equation.primitive.name == "scan":
        return equation.params["length"]
    if equation.primitive.name == "pallas_call":
        return math.prod(equation.params["grid_mapping"].grid)
    return 1


def inner_jaxprs(equation: Any) -> Iterator[Any]:
    """The jaxprs inside of an equation: bodies, branches, what is called."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else [value]:
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


def _own(equation):
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        return 2 * math.prod(result) * math.prod(left[axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        kernel, result = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
        outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(result) * math.prod(kernel) // outputs
    return 0
