"""All commands by name, `narrative_jax launch --config=adpo`; without a name, what there is.

The same as `python -m narrative_jax.launch --config=adpo`, with the same exit codes.
"""

import ast
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from narrative_jax.core.command import exit_code
from narrative_jax.core.errors import check_name

STUDY = "study"  # their folder, and the word before their names


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first words name; returns its exit code."""
    words, known = sys.argv[1:] if argv is None else list(argv), commands()
    count = 2 if words[:1] == [STUDY] else 1
    if " ".join(words[:count]) in known:
        return import_module(".".join(["narrative_jax", *words[:count]])).main(words[count:])
    return exit_code(lambda: _list(" ".join(words[:count]), known))


def commands() -> dict[str, str]:
    """What each command does, a line, by its name: those of the modules that run as a program."""
    package, found = Path(__file__).parent, {}
    for path in [*sorted(package.glob("[a-z]*.py")), *sorted((package / STUDY).glob("[a-z]*.py"))]:
        source = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__"' in source:  # read, not imported: JAX takes its time
            name = " ".join(path.relative_to(package).with_suffix("").parts)
            found[name] = ast.get_docstring(ast.parse(source)).splitlines()[0].partition(": `")[0].rstrip(".")
    return found


def _list(asked: str, known: Mapping[str, str]):
    if not {*asked.split()} <= {STUDY, "-h", "--help"}:
        check_name("command", asked, known)
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {told}" for name, told in known.items()]
    print("\n".join(["narrative_jax COMMAND [FLAGS], or COMMAND --help", "", *lines]))


if __name__ == "__main__":
    sys.exit(main())
