"""What reaches the terminal: in whatever encoding, without what would steer it, and only while somebody reads."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

from narrative_jax.core.errors import Unread


@contextmanager
def shown() -> Iterator[None]:
    """Inside the block stdout and stderr escape what the terminal cannot show and, in users' text, what would steer it.

    They raise Unread where their reader has left. Not in another thread than the main one: the streams belong to all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with redirect_stdout(_Escaping(sys.stdout, "\n")), redirect_stderr(_Escaping(sys.stderr, "\n\r")):  # \r: tqdm's
        yield


class _Escaping:
    """A text stream; of characters that are not printable it takes only those that are `kept` as they are."""

    def __init__(self, stream: TextIO, kept: str):
        self._stream, self._kept = stream, kept

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        escaped = (c if c.isprintable() or c in self._kept else c.encode("unicode_escape").decode() for c in text)
        encoding = self._stream.encoding or "utf-8"
        with self._read():
            self._stream.write("".join(escaped).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._read():
            self._stream.flush()

    @contextmanager
    def _read(self):
        """Turns a reader who has left into Unread; what is still to be written then goes nowhere, at exit too."""
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise Unread from None
