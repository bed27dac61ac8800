"""How many bytes a compiled program reads from a chip's memory and writes to it."""

from functools import cached_property

from narrative_jax.planning.hlo import Instruction, Program, Visit, members, shapes, type_bytes

# These move nothing themselves, or are counted where they start.
_STILL = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all")
_STILL += ("partition-id", "replica-id", "opt-barrier", "iota")


def memory_bytes(program: Program) -> int:
    """Bytes a step: operands and results of what runs, but for those in the chip's small, fast memory.

    An estimate: a fusion or a kernel reads each operand once, of a sliced one the slices.
    """
    computations = {name: _Computation(program, name) for name in program.computations}
    return sum(computations[each.computation].moved(each) * each.times for each in _moving(program))


def _moving(program: Program):
    for each in program.visits():
        kind = each.instruction.kind
        if not each.fusion and kind not in _STILL and not kind.endswith("-done") and kind != "async-update":
            yield each


class _Computation:
    """One with a look-up of its instructions by name."""

    def __init__(self, program: Program, name: str):
        self._program, self._name = program, name

    @cached_property
    def _instructions(self):
        return self._program.computations[self._name]

    @cached_property
    def _by_name(self) -> dict[str, Instruction]:
        return {each.name: each for each in self._instructions}

    @cached_property
    def _users(self) -> dict[str, list[Instruction]]:
        users = {}
        for each in self._instructions:
            for name in dict.fromkeys(each.operands):
                users.setdefault(name, []).append(each)
        return users

    def moved(self, visit: Visit) -> int:
        """Bytes that one run of an instruction moves."""
        each = visit.instruction
        if each.kind.endswith("-start"):
            return self._of_start(each)
        if each.kind in ("dynamic-slice", "slice", "gather"):
            return 2 * _slow(each.type)
        if each.kind == "dynamic-update-slice":
            return 2 * self._bytes(each.operands[1])
        inner = self._inner(each)
        read = 0
        for place, name in enumerate(each.operands):
            size = self._bytes(name)
            read += min(size, inner._touched(inner._parameter(place), size)) if inner and size else size
        return read + (min(_slow(each.type), inner._written(inner._root)) if inner else _slow(each.type))

    def _of_start(self, each):
        """What begins here reads and writes as much as its result holds; one of both may be in fast memory."""
        parts = members(each.type)
        if len(parts) < 2:
            return 2 * _slow(each.type)
        target, source = parts[:2] if each.kind == "copy-start" else parts[1::-1]
        size = type_bytes(target)
        return min(size, _slow(target)) + min(size, _slow(source))

    def _inner(self, each):
        called = dict(each.called).get("calls") if each.kind == "fusion" else None
        return _Computation(self._program, called) if called else None

    @property
    def _root(self) -> str:
        return next(each.name for each in self._instructions if each.root)

    def _parameter(self, place: int) -> str:
        return next(
            each.name for each in self._instructions if each.kind == "parameter" and each.rest.startswith(f"{place})")
        )

    def _bytes(self, name):
        return _slow(self._by_name[name].type) if name in self._by_name else 0

    def _touched(self, name: str, whole: int) -> int:
        """Bytes read of a parameter of `whole` bytes: of its slices where nothing else is done with it."""
        total = 0
        for user in self._users.get(name, ()):
            if user.kind in ("dynamic-slice", "slice", "gather"):
                total += type_bytes(user.type)
            elif user.kind == "dynamic-update-slice" and user.operands[0] == name:
                total += type_bytes(self._by_name[user.operands[1]].type)
            elif user.kind == "bitcast":
                total += self._touched(user.name, whole)
            elif inner := self._inner(user):
                total += inner._touched(inner._parameter(user.operands.index(name)), whole)
            else:
                return whole
        return total

    def _written(self, name: str) -> int:
        """Bytes written of a result: of one that is updated in place the update."""
        each = self._by_name[name]
        if each.kind == "dynamic-update-slice":
            return type_bytes(self._by_name[each.operands[1]].type)
        if each.kind == "tuple":
            return sum(self._written(part) for part in each.operands)
        if each.kind == "bitcast":
            return self._written(each.operands[0])
        inner = self._inner(each)
        return inner._written(inner._root) if inner else type_bytes(each.type)


def _slow(text: str) -> int:
    """Bytes of a type's arrays that lie in the large memory: S(n) in a layout names another."""
    return sum(size for size, layout in shapes(text) if "S(" not in layout)
