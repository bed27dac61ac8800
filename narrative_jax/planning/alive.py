"""What a traced program holds at a time and reads of its weights, estimated from its operations."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from narrative_jax.planning.flops import inner_jaxprs, runs

# These make nothing new: a compiler works them out where they are read.
_FREE = {"broadcast_in_dim", "reshape", "squeeze", "convert_element_type", "iota", "slice", "expand_dims", "copy"}
_FREE |= {"split", "transpose", "mul", "add", "sub", "neg", "select_n", "integer_pow", "exp", "tanh", "logistic"}
_SHAPED = {"convert_element_type", "reshape", "squeeze", "slice", "transpose", "copy", "split", "broadcast_in_dim"}


class Held(NamedTuple):
    """Bytes of the whole program: `peak` alive at once beside arguments, `gathered` weights that its loops read, in all
    their rounds, and `carried` by those loops from block to block.
    """

    peak: int
    gathered: int
    carried: int


def held(jaxpr: Any, weights: Sequence[bool]) -> Held:
    """Of a jaxpr some of whose arguments are weights."""
    gathered, carried = _passed(jaxpr, list(weights), 1)[1:]
    return Held(_peak(jaxpr), gathered, carried)


def _peak(jaxpr):
    """Bytes that are alive at once, beside what comes in."""
    last = {}
    for place, equation in enumerate(jaxpr.eqns):
        last |= {id(var): place for var in equation.invars}
    last |= {id(var): len(jaxpr.eqns) for var in jaxpr.outvars}
    ends, alive, most = {}, 0, 0
    for place, equation in enumerate(jaxpr.eqns):
        name = equation.primitive.name
        inside = [] if name == "pallas_call" else [_peak(part) for part in inner_jaxprs(equation)]
        made = 0 if name in _FREE else sum(map(_bytes, equation.outvars))
        most = max(most, alive + made + max(inside, default=0))
        for var in equation.outvars:
            if name not in _FREE and id(var) in last:
                alive += _bytes(var)
                ends.setdefault(last[id(var)], []).append(_bytes(var))
        alive -= sum(ends.pop(place, ()))
    return most


def _passed(jaxpr, flags, times):
    """Which results are weights, and the bytes of weights and of carries that loops read."""
    known = dict(zip(map(id, jaxpr.invars), flags, strict=True))
    gathered = carried = 0
    for equation in jaxpr.eqns:
        name, mine = equation.primitive.name, [known.get(id(var), False) for var in equation.invars]
        parts = list(inner_jaxprs(equation))
        results = [name in _SHAPED and all(mine)] * len(equation.outvars)
        if name == "scan":
            first = equation.params["num_consts"] + equation.params["num_carry"]
            rows = zip(equation.invars[first:], mine[first:], strict=True)
            gathered += times * sum(_bytes(var) for var, weight in rows if weight)
            if any(mine[first:]):
                carry = equation.invars[equation.params["num_consts"] : first]
                carried += times * equation.params["length"] * sum(map(_bytes, carry))
        for part in parts if name != "pallas_call" else ():
            inside = mine if len(part.invars) == len(mine) else [False] * len(part.invars)
            out, more, further = _passed(part, inside, times * runs(equation))
            gathered, carried = gathered + more, carried + further
            results = out if len(out) == len(results) and name != "scan" else results
        known |= dict(zip(map(id, equation.outvars), results, strict=True))
    return [known.get(id(var), False) for var in jaxpr.outvars], gathered, carried


def _bytes(var):
    aval = var.aval
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 4) if hasattr(aval, "shape") else 0
