"""The text of a compiled program as computations of instructions, and how often each of them runs."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4}
BYTES |= {"u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "token": 0}
_HEAD = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(condition|body|calls|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Instruction(NamedTuple):
    """One line: whether it is the result, its name, the type of its result, its kind, and the rest as text."""

    root: bool
    name: str
    type: str
    kind: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        return re.findall(r"%([\w.-]+)", self.rest[: _closing(self.rest)])

    @property
    def called(self) -> list[tuple[str, str]]:
        """(role, name) of the computations that it runs."""
        branches = _BRANCHES.search(self.rest)
        named = re.findall(r"%?([\w.-]+)", branches[1]) if branches else []
        return [*_CALLED.findall(self.rest), *(("branch", name) for name in named)]


class Visit(NamedTuple):
    """An instruction where it runs: how many times, inside of which loop, and inside of which fusion, "" for none."""

    instruction: Instruction
    computation: str
    times: int
    loop: tuple[str, ...]
    fusion: str


class Program:
    """The computations of a module's text, as `compiled.as_text()` gives it."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, lines = "", None
        for line in text.splitlines():
            if lines is None and (head := _HEAD.match(line)):
                lines = self.computations[head[2]] = []
                self.entry = head[2] if head[1] else self.entry
            elif line == "}":  # alone: a kernel's text, with line breaks of its own, has lines that begin so
                lines = None
            elif lines is not None and (found := _INSTRUCTION.match(line)):
                lines.append(Instruction(bool(found[1]), *found.groups()[1:]))

    def visits(self) -> Iterator[Visit]:
        """Every instruction that runs, by way of loops, fusions, calls and branches; of branches all count."""
        yield from self._visits(self.entry, 1, (), "")

    def _visits(self, computation, times, loop, fusion):
        for each in self.computations.get(computation, ()):
            yield Visit(each, computation, times, loop, fusion)
            called = dict(each.called)
            if each.kind == "while":
                body = called["body"]
                yield from self._visits(body, times * self.trips(each), (*loop, body), fusion)
            elif each.kind in ("fusion", "call", "conditional", "async-start"):
                inside = each.name if each.kind in ("fusion", "async-start") else fusion
                for _, name in each.called:
                    yield from self._visits(name, times, loop, inside)

    def trips(self, loop: Instruction) -> int:
        """How often a loop runs: as it says itself, or the constant that its condition compares with; else 1."""
        if known := re.search(r'known_trip_count[^\d]*"n":"(\d+)"', loop.rest):
            return int(known[1])
        return self._bound(dict(loop.called)["condition"]) or 1

    def _bound(self, computation):
        instructions = self.computations[computation]
        constants = {each.name: int(found[1]) for each in instructions if (found := _constant(each))}
        for each in instructions:
            if each.kind == "compare" and "direction=LT" in each.rest:
                named = [constants[name] for name in each.operands if name in constants]
                if named:
                    return named[0]
            if each.kind == "fusion":  # it compares inside, with a constant from outside or one of its own
                named = [constants[name] for name in each.operands if name in constants]
                return named[0] if named else self._bound(dict(each.called)["calls"])
        return None


def type_bytes(text: str) -> int:
    """Bytes of a type, of all elements of a tuple together."""
    return int(sum(_bytes(kind, sizes) for kind, sizes, _ in _SHAPE.findall(text) if kind in BYTES))


def members(text: str) -> list[str]:
    """The members of a tuple's type; [text] of any other."""
    text = re.sub(r"/\*.*?\*/", "", text)
    if not text.startswith("("):
        return [text]
    found, depth, start = [], 0, 1
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if (sign == "," and depth == 1) or depth == 0:
            found.append(text[start:place].strip())
            start = place + 1
            if depth == 0:
                break
    return found


def shapes(text: str) -> list[tuple[int, str]]:
    """Bytes and layout of each array of a type."""
    return [(int(_bytes(kind, sizes)), layout) for kind, sizes, layout in _SHAPE.findall(text) if kind in BYTES]


def _bytes(kind, sizes):
    return BYTES[kind] * math.prod(map(int, filter(None, sizes.split(","))))


def _constant(instruction):
    return re.match(r"(\d+)\)", instruction.rest) if instruction.kind == "constant" else None


def _closing(text):
    depth = 1
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if not depth:
            return place
    return len(text)
