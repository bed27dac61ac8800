"""Config files and what a command line changes in them.

A config file is Python with `get_config(variant="")`, which returns a ConfigDict and raises InputError for a variant
that it does not know (`check_name`).
"""

import ast
import json
import runpy
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from narrative_jax.core.errors import InputError, suggest


def load(spec: str) -> ConfigDict:
    """The config that `spec` stands for: "recipe", "recipe:variant", "FILE.py" or "FILE.py:variant". Raises InputError.

    A recipe is one of those that come with the package.
    """
    path, variant = find(spec)
    try:
        get_config = runpy.run_path(path).get("get_config")
        config = get_config(variant) if get_config else None
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"config {path}{_line(path, error)}", _cause(error), "correct the file") from error
    if not isinstance(config, ConfigDict):
        rule = "it defines get_config(variant) and returns a ConfigDict from it"
        raise InputError(f"config {path}", rule, "see configs/ for examples")
    return ConfigDict(config)


def load_changed(spec: str, changes: Iterable[str]) -> ConfigDict:
    """`load`, with what a command line changes: "--config.key=value" each, see `override`. Raises InputError."""
    config = load(spec)
    for change in changes:
        key, equals, text = change.removeprefix("--config.").partition("=")
        if not equals:
            raise InputError(change, "a value follows its key after '='", f"write {change}=VALUE")
        override(config, key, text)
    return config


def find(spec: str) -> tuple[str, str]:
    """The file and the variant that `spec` names, see `load`. Raises InputError where there is no such file."""
    before, _, variant = spec.rpartition(":")
    for name, chosen in ((spec, ""), (before, variant)):  # a path may have colons of its own
        path = _recipes() / f"{name}.py" if name.isidentifier() else Path(name)
        if path.is_file():
            return str(path), chosen
    raise _missing(spec)


def override(config: ConfigDict, key: str, text: str) -> None:
    """Set the existing dotted `key` to what `text` means for the type that stands there. Raises InputError.

    Strings are taken as they are, true and false are bools, all else is a Python literal; an integer does for a float.
    Where None stands, any literal does, and what is none is a string.
    """
    *sections, last = key.split(".")
    section = config
    for depth, part in enumerate([*sections, last]):
        if not isinstance(section, ConfigDict) or part not in section:
            raise _unknown(config, key, depth)
        section, parent = section[part], section
    if isinstance(section, ConfigDict):
        rule = f"{key} is a section with {', '.join(section)}"
        raise InputError(f"--config.{key}={text}", rule, "set one of these, with a dot between")
    parent[last] = _value(key, text, section)


def resolved(config: ConfigDict) -> dict[str, Any]:
    """The config as it is read back from its JSON: references resolved, tuples as lists. Raises InputError."""
    values = config.copy_and_resolve_references().to_dict()
    try:
        return json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        rule = f"its values are numbers, strings, bools, None, and tuples and sections of them ({error})"
        raise InputError("the config", rule, "name things by strings") from error


def differences(there: Mapping, here: Mapping) -> list[str]:
    """What two resolved configs disagree on, a phrase for each dotted key."""
    there, here = dict(_leaves(there)), dict(_leaves(here))

    def show(values, key):
        return repr(values[key]) if key in values else "absent"

    keys = [key for key in {**there, **here} if show(there, key) != show(here, key)]
    return [f"{key} ({show(there, key)} there, {show(here, key)} here)" for key in keys]


def _leaves(section, prefix=""):
    for name, value in section.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _recipes() -> Path:
    """The folder of the recipes: in the package where it is installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.with_name("configs")


def _missing(spec):
    path = Path(spec)
    beside = [] if spec.partition(":")[0].isidentifier() else sorted(str(found) for found in path.parent.glob("*.py"))
    recipes = sorted(found.stem for found in _recipes().glob("*.py"))
    rule = f"no such file; there are {', '.join([*beside, *recipes])}"
    remedy = suggest(path.stem, recipes, "give the path of a config file, or the name of a recipe")
    return InputError(f"config {spec}", rule, suggest(spec, beside, remedy))


def _line(path, error):
    """Where in the config file an error came up."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f", line {lines[-1]}" if lines else ""


def _cause(error):
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"


def _unknown(config, key, depth):
    parts = key.split(".")
    section, name = config, ".".join(parts[:depth])
    for part in parts[:depth]:
        section = section[part]
    if isinstance(section, ConfigDict):
        rule = f"known{' in ' + name if name else ''} are {', '.join(section)}"
    else:
        rule = f"{name} is a value, not a section"
    return InputError(f"unknown config key {key!r}", rule, suggest(key, dict(_leaves(config)), "choose a known one"))


def _value(key, text, default):
    if isinstance(default, str):
        return text
    try:
        if isinstance(default, bool) and text in ("true", "false"):
            return text == "true"
        return _like(ast.literal_eval(text), default)
    except (ValueError, SyntaxError, TypeError) as error:
        if default is None:
            return text
        rule = f"a value of type {type(default).__name__} is expected, like {default!r}"
        raise InputError(f"--config.{key}={text}", rule, "give such a value") from error


def _like(value, default):
    """`value` with the type of `default`; ValueError where it has another."""
    if default is None:
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, tuple | list) and isinstance(value, tuple | list):
        same = len({type(element) for element in default}) == 1
        return type(default)(_like(element, default[0] if same else None) for element in value)
    if type(value) is not type(default):
        raise ValueError
    return value
