"""Several processes as one run: how they come together, and what they tell each other.

Where one fails, is lost or falls silent, all end: see `hub`.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from itertools import chain
from typing import Any

from narrative_jax.core import hub
from narrative_jax.core.command import BAD_INPUT, STOPPED
from narrative_jax.core.errors import InputError

PATIENCE = 300.0  # seconds that all may take to come together
SEEN_WITHIN = 30.0  # seconds that a shared file system may take to show another host what one wrote
_ADDRESS_BYTES = 1024
_NUMBERS = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def count() -> int:
    """Of the processes of this run."""
    return _group.count if _group else 1


def index() -> int:
    """Of this process among them."""
    return _group.index if _group else 0


def is_first() -> bool:
    """Whether this is the process that writes what all share."""
    return index() == 0


def gather(what: str, value: Any = None) -> list:
    """What each process says, in order; a plain value, as JSON has them. All must ask for the same, in one order."""
    return _group.gather(what, value) if _group else [value]


def wait_for_all(what: str) -> None:
    """What one process wrote, the others may read from here on."""
    gather(what)


def any_of(what: str, flag: bool) -> bool:
    """Whether a process says so."""
    return any(gather(what, flag))


def first_does(what: str, make: Callable[[], Any]) -> Any:
    """What `make` gives in the first process, a plain value, while the others wait for it."""
    return gather(what, make() if is_first() else None)[0]


def in_shares(what: str, rows: int, work: Callable[[Sequence[int]], Sequence]) -> list:
    """`work` of the rows 0 ... `rows` - 1, a plain value for each, in order: each process does its share of them."""
    places = [range(number, rows, count()) for number in range(count())]
    mine = places[index()]
    found = gather(what, list(work(mine)) if mine else [])
    by_row = dict(zip(chain.from_iterable(places), chain.from_iterable(found), strict=True))
    return [by_row[row] for row in range(rows)]


def is_seen(look: Callable[[], bool]) -> bool:
    """Whether `look` finds what another process wrote, in the time that a shared file system may take to show it."""
    until = time.monotonic() + SEEN_WITHIN
    while not (found := look()) and count() > 1 and time.monotonic() < until:
        time.sleep(0.1)
    return found


@contextmanager
def joined() -> Iterator[None]:
    """Within, this process is one of those that the environment speaks of; where there is one, nothing changes.

    That is: JAX_COORDINATOR_ADDRESS (with JAX_NUM_PROCESSES and JAX_PROCESS_ID unless a cluster tells them), a step of
    Slurm with more than one task, or a TPU slice of several hosts. Comes before anything asks for a device. Only the
    first process prints. Raises InputError where they do not come together.
    """
    global _group
    if not _are_several(os.environ):
        yield
        return
    _group = _come_together(os.environ)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if is_first() else nowhere):
            yield
    except BaseException as error:
        _group.fail(error)
        raise
    _group.leave()
    _group = None


def end(code: int) -> None:
    """End this process at once if it belongs to several of which not all came to their end; else nothing.

    Python's own end would wait for the others, in the runtime's.
    """
    if _group:
        _group.end(code)


def _are_several(environment):
    several = int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1 or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    return "JAX_COORDINATOR_ADDRESS" in environment or several


def _come_together(environment):
    # Imported late: what runs alone need not wait for it.
    import jax
    import numpy as np
    from jax._src.clusters import ClusterEnv  # what jax.distributed asks; it tells nobody else where the first one is
    from jax.experimental import multihost_utils

    given = environment.get("JAX_COORDINATOR_ADDRESS"), *(_number(name, environment) for name in _NUMBERS)
    address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(*given, None, None, int(PATIENCE))
    for name, value in zip(_NUMBERS, (count, index), strict=True):
        if value is None:
            raise InputError(f"{name} is not set", "no cluster tells it either", "set it, from 0 for the first process")
    _check_place(address, count, index)
    with _patience(address):
        jax.distributed.initialize(
            # Of the end of the first process the others hear from its hub: the runtime would end with a dump.
            _lasting(address) if index else address,
            count,
            index,
            devices,
            initialization_timeout=2 * int(PATIENCE),
            heartbeat_timeout_seconds=10 * int(hub.SILENCE),
        )
        try:
            mine = hub.Hub(count) if index == 0 else None
            addresses = json.dumps(mine.addresses if mine else []).encode().ljust(_ADDRESS_BYTES)
            addresses = multihost_utils.broadcast_one_to_all(np.frombuffer(addresses, np.uint8))
            return hub.Group(count, index, json.loads(bytes(addresses)), mine)
        except Exception as error:  # there is no hub yet, and Python's own end would wait for the others
            if isinstance(error, hub.UnreachableError) and _answers(address):
                hub.say(f"{hub.name_of(index)}: {error}")
                os._exit(BAD_INPUT)
            hub.say(f"{hub.name_of(index)}: another one was lost before all had come together ({hub.told(error)[1]})")
            os._exit(STOPPED)


def _number(name, environment):
    text = environment.get(name) or None
    if text and not text.isdecimal():
        raise InputError(f"{name} {text!r}", "it is a number", "give one, e.g. 0 for the first process")
    return text and int(text)


def _check_place(address, count, index):
    """Raise InputError for what the runtime would end with a dump for."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        rule = "it is host:port, where the first process listens"
        raise InputError(f"JAX_COORDINATOR_ADDRESS {address!r}", rule, "give one, e.g. 10.0.0.1:8476")
    if index >= count:
        rule = f"the {count} processes are numbered from 0 to {count - 1}"
        raise InputError(f"JAX_PROCESS_ID {index}", rule, "give each its own")
    if index == 0:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            rule = f"the first process listens at this port, and cannot ({os.strerror(error.errno)})"
            raise InputError(f"JAX_COORDINATOR_ADDRESS {address!r}", rule, "choose another port") from error


def _answers(address):
    with suppress(OSError), socket.create_connection(_place(address), timeout=PATIENCE / 20):
        return True
    return False


def _place(address):
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


def _lasting(address):
    """An address here that stands for another one, and does not hang up when that does."""
    door = socket.create_server(("127.0.0.1", 0))

    def pass_on(source, target):
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)

    def connect(near):
        with near, suppress(OSError), socket.create_connection(_place(address)) as far:
            threading.Thread(target=pass_on, args=(far, near), daemon=True).start()
            pass_on(near, far)

    def open_door():
        while True:
            threading.Thread(target=connect, args=(door.accept()[0],), daemon=True).start()

    threading.Thread(target=open_door, daemon=True).start()
    return f"127.0.0.1:{door.getsockname()[1]}"


@contextmanager
def _patience(where):
    """Ends the process where the others do not come: the runtime cannot be asked to stop waiting."""

    def tell():
        hub.say(f"waiting for the other processes, which meet at {where}")

    def give_up():
        hub.say(f"processes that meet at {where}: not all came within {PATIENCE:g} s; start all, and let them reach it")
        os._exit(BAD_INPUT)

    timers = [threading.Timer(PATIENCE / 20, tell), threading.Timer(PATIENCE, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


_group: hub.Group | None = None
