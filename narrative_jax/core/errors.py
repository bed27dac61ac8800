"""The one error for bad input: it names the value, the rule and the remedy."""

from difflib import get_close_matches
from numbers import Integral, Real


class InputError(ValueError):
    """Bad input or configuration; commands print it as one line and exit with 2."""

    def __init__(self, value: str, rule: str, remedy: str):
        """`value` says what was given, `rule` what is allowed, `remedy` what to do about it."""
        super().__init__(value, rule, remedy)

    def __str__(self) -> str:
        return "{}: {}; {}".format(*self.args)


class Stopped(Exception):  # noqa: N818 (no error)
    """A signal asked for the end, and all that the next run needs is saved; commands exit with 75."""


class Unread(Exception):  # noqa: N818 (no error)
    """Whoever read the output has left, as `| head` does; commands exit with 141."""


def suggest(name: str, known, otherwise: str = "choose a known one") -> str:
    """The remedy for a misspelling: the nearest known name, `otherwise` where none is near."""
    nearest = get_close_matches(str(name), map(str, known), n=1, cutoff=0.5)
    return f"did you mean {nearest[0]!r}?" if nearest else otherwise


def check_name(kind: str, name: str, known) -> None:
    """Raise InputError unless `name` is one of `known`, suggesting the nearest known name."""
    known = list(known)
    if name in known:
        return
    names = ", ".join(filter(None, map(str, known)))  # "" is a name that nobody types
    rule = f"known are {names}" if names else "there is none"
    raise InputError(f"unknown {kind} {name!r}", rule, suggest(name, known) if names else "leave it out")


def check_count(kind: str, value, minimum: int = 0) -> None:
    """Raise InputError unless `value` is an integer (no bool, no float) of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise InputError(f"{kind} {value!r}", f"{kind} is an integer ≥ {minimum}", f"give one, e.g. {minimum + 1}")


def check_share(kind: str, value) -> None:
    """Raise InputError unless `value` is a number in [0, 1]."""
    if not isinstance(value, Real) or not 0 <= value <= 1:
        raise InputError(f"{kind} {value!r}", f"{kind} lies in [0, 1]", "give such a number")
