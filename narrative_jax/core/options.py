"""A section of the config as the frozen dataclass that says which options there are, and of which types."""

import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral, Real
from typing import Any, TypeVar

from narrative_jax.core.errors import InputError, check_name

T = TypeVar("T")


class File(str):
    """The path of a file or folder, as the type of an option; ~ is the home, "" is none."""

    def __new__(cls, path: str = ""):
        return super().__new__(cls, os.path.expanduser(path))


_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    File: "a path",
    type(None): "None",
    Any: "any value",
}


def parse(kind: type[T], section: Mapping[str, Any], where: str, others: Iterable[str] = ()) -> T:
    """The dataclass `kind` with the values of a section, in which there may be `others` that are not its own.

    Lists become tuples, integers do for floats, sections become the dataclasses that their fields are of. Raises
    InputError, naming `where`.key, for a key that is unknown or missing, a value of another type, and whatever `kind`
    itself refuses.
    """
    others, hints, values = set(others), typing.get_type_hints(kind), {}
    for key in section:
        check_name(f"option of {where}", key, [*names_of(kind), *others])
    for field in fields(kind):
        if not field.init:
            continue
        if field.name in section:
            values[field.name] = _value(section[field.name], hints[field.name], f"{where}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            rule = f"{field.name!r} is missing, it has no default"
            raise InputError(where, rule, f"set {where}.{field.name} to {_words(hints[field.name])}")
    with whole_keys(kind, where):
        return kind(**values)


@contextmanager
def whole_keys(kind: type, where: str) -> Iterator[None]:
    """Inside the block an InputError that names an option of `kind` with its value names it as `where`.option."""
    try:
        yield
    except InputError as error:
        given, rule, remedy = error.args
        option = rf"(?<![\w.])({'|'.join(names_of(kind))})(?= ['\"\d([{{-]| (True|False|None|nan|inf)\b)"
        raise type(error)(re.sub(option, rf"{where}.\1", given, count=1), rule, remedy) from error


def names_of(kind: type) -> list[str]:
    """The names of a dataclass's options."""
    return [field.name for field in fields(kind) if field.init]


def files_in(options: Any) -> Iterator[File]:
    """The files that options name, at any depth."""
    if isinstance(options, File):
        yield from [options] if options else []
    elif is_dataclass(options):
        for field in fields(options):
            yield from files_in(getattr(options, field.name))
    elif isinstance(options, Mapping):
        yield from files_in(tuple(options.values()))
    elif isinstance(options, tuple):
        for part in options:
            yield from files_in(part)


def _value(value, hint, where):
    """`value` as `hint` has it. Raises InputError for another type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return None if value is None and type(None) in arguments else _value(value, arguments[0], where)
    if is_dataclass(hint) and hasattr(value, "items"):
        return parse(hint, value, where)
    if origin is dict and hasattr(value, "items"):
        return {key: _value(part, arguments[1], f"{where}.{key}") for key, part in value.items()}
    if origin is tuple and isinstance(value, tuple | list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        if len(kinds) == len(value):
            pairs = enumerate(zip(value, kinds, strict=True))
            return tuple(_value(part, kind, f"{where}[{place}]") for place, (part, kind) in pairs)
    if _is(value, hint):
        return hint(value) if hint in (float, File) else value
    raise InputError(f"{where} {_plain(value)!r}", f"it is {_words(hint)}", "give such a value")


def _is(value, kind):
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(value, str if kind is File else kind) if isinstance(kind, type) else False


def _plain(value):
    return value.to_dict() if hasattr(value, "to_dict") else value


def _words(hint):
    """A type as a person says it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and arguments[-1] is ...:
        return f"a list, each element {_words(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: {', '.join(map(_words, arguments))}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_words, arguments))
    return "a section" if origin is dict or is_dataclass(hint) else _WORDS[hint]
