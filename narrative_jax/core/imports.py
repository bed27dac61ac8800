"""What an import need not bring along."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(module: str) -> Iterator[None]:
    """Meanwhile a module looks as if it were not installed, to libraries that can do without it."""
    known = sys.modules.get(module)
    sys.modules[module] = None  # so that importing it raises ImportError
    try:
        yield
    finally:
        del sys.modules[module]
        if known is not None:
            sys.modules[module] = known
