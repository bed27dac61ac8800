"""What passes between chips in a compiled program: bytes of results, and bytes over the links by rings."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from narrative_jax.planning.hlo import Program, members, type_bytes

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "send")
BETWEEN_SLICES = "send"  # the compiler makes sums over slices of these, whatever the program asked for
# Of a result of b bytes in a group of g, what each chip sends around a ring.
_RING = {
    "all-gather": lambda b, g: b * (g - 1) / g,
    "all-reduce": lambda b, g: 2 * b * (g - 1) / g,
    "reduce-scatter": lambda b, g: b * (g - 1),
    "all-to-all": lambda b, g: b * (g - 1) / g,
    "collective-permute": lambda b, g: b,
    "send": lambda b, g: b,
}
_WITH_OPERANDS = ("all-gather-start", "collective-permute-start", "send")  # their results are tuples with more in them


class Collective(NamedTuple):
    """One that runs so many `times` a step, inside a loop or not, with `bytes` of results a chip each time."""

    kind: str
    bytes: int
    group: int
    times: int
    in_loop: bool

    @property
    def total(self) -> int:
        """Bytes of its results a chip and step."""
        return self.bytes * self.times

    @property
    def wire(self) -> float:
        """Bytes that a chip sends a step, around a ring."""
        return _RING[self.kind](self.bytes, self.group) * self.times


def collectives(program: Program, chips: int) -> list[Collective]:
    """Those of a program for so many chips.

    An asynchronous one counts where it starts. Some appear in several fusions of a loop, as parts of one whole: there
    each counts once, by its channel.
    """
    found, seen = [], set()
    for each, computation, times, loop, fusion in program.visits():
        kind = each.kind.removesuffix("-start")
        if kind not in KINDS:
            continue
        channel = re.search(r"channel_id=(\d+)", each.rest)
        if fusion and channel:
            key = loop, kind, channel[1]
            if key in seen:
                continue
            seen.add(key)
        group = _group(each.rest, chips)
        size = _result_bytes(each)
        if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
            kind, size = "reduce-scatter", size // group
        found.append(Collective(kind, size, group, times, bool(loop)))
    return found


def by_kind(found: Iterable[Collective], value: str = "total") -> dict[str, int]:
    """Bytes a chip and step by kind, of results ("total") or around rings ("wire"); kinds that are not there lack."""
    found = list(found)
    sums = {kind: sum(getattr(each, value) for each in found if each.kind == kind) for kind in KINDS}
    return {kind: round(size) for kind, size in sums.items() if size}


def _result_bytes(each):
    if each.kind == "send":
        return type_bytes(members(each.type)[0])
    return type_bytes(members(each.type)[1] if each.kind in _WITH_OPERANDS else each.type)


def _group(attributes, chips):
    """How many chips take part in each group."""
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
        group = 1
        for axis in re.findall(r"'([^']+)'", named[2]):
            group *= int(sizes[axis])
        return group
    if numbered := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(numbered[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return listed[1].count(",") + 1
    return chips
