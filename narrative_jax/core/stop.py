"""The wish to stop, as a flag that long work looks at where it can save."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class StopFlag:
    """`requested` is False until somebody wants the work to save and raise Stopped."""

    def __init__(self):
        self.requested = False

    @contextmanager
    def on_signals(self) -> Iterator[Self]:
        """Inside the block SIGTERM and SIGINT set the flag; a second SIGINT ends the process at once.

        In another thread than the main one, which alone hears signals, nothing sets it but the caller.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.signal(number, self._request) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _request(self, number, frame):
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # not print: the signal may have come in the midst of one
            os.write(2, b"\nstopping once all is saved; Ctrl-C again stops at once\n")
