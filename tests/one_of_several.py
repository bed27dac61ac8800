"""One of several processes, for tests of how they talk and how they end: `python tests/one_of_several.py SCENARIO`."""

import os
import signal
import sys
import time

from narrative_jax.core import hub, processes
from narrative_jax.core.command import exit_code
from narrative_jax.core.errors import InputError, Stopped


def talk():
    """What all know in the end, printed by the first."""
    mine = processes.index()
    squares = processes.in_shares("squares", 5, lambda rows: [[row, row * row, mine] for row in rows])
    print(
        processes.gather("numbers", {"mine": mine}),
        processes.first_does("the first", lambda: "only here" if processes.is_first() else 1 / 0),
        processes.any_of("any", mine == 1),
        processes.any_of("none", False),
        squares,
        flush=True,
    )


def wait():
    """For the others, as long as it takes."""
    processes.gather("something")


def bad_input():
    raise InputError("pictures ''", "there is none", "give some")


def defect():
    return {}["missing"]


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def silent():
    os.kill(os.getpid(), signal.SIGSTOP)


def stopped():
    raise Stopped


def elsewhere():
    """Asks for another thing than the others do."""
    processes.gather("another thing")


def walled_off():
    """All but the first one find the port of its hub closed."""
    find = hub._connection
    hub._connection = lambda addresses, index: find([addresses[0], ["127.0.0.1", 1]] if index else addresses, index)
    hub.MEETING = 3.0


def computes():
    """Works without a word for longer than silence may last."""
    deadline = time.monotonic() + 2 * hub.SILENCE
    while time.monotonic() < deadline:
        sum(range(10_000))


def main(scenario):
    """`talk`, or a scenario of the process of this number while the others wait: "defect 1"."""
    kind, _, who = scenario.partition(" ")
    hub.SILENCE, processes.PATIENCE = 4.0, 8.0 if kind == "alone" else processes.PATIENCE

    if kind == "walled_off":
        walled_off()

    def body():
        with processes.joined():
            processes.wait_for_all("all are here")
            if who in ("", f"{processes.index()}"):
                globals()[kind]()
            else:
                wait()

    code = exit_code(body)
    processes.end(code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
