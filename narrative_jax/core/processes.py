"""Several processes as one run: what they tell each other, and that all end where one of them does.

The first process has a hub to which all are connected. What all must know goes through it, but for arrays on devices,
and every second a sign of life, from a thread of its own, so that it goes on while a program compiles. Where a process
fails, is lost or falls silent, the others end too, with one line that names it.
"""

import json
import os
import queue
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from itertools import chain
from typing import Any

from narrative_jax.core.command import BAD_INPUT, DONE, STOPPED, UNREAD
from narrative_jax.core.errors import InputError, Stopped, Unread

SILENCE = 30.0  # seconds after which a process that gives no sign of life is lost
PATIENCE = 300.0  # seconds that all may take to come together
_BEAT = 1.0
_GRACE = 15.0  # seconds in which all stop where one does
_VERDICT = 6.0  # seconds in which the hub hears of a process whose loss made an operation of this one fail
_HELLO = 10.0  # seconds in which a connection says whose it is
_DEFECT = 1
_ADDRESS_BYTES = 1024
_THE_END = "the end"
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
    with _patience(address):
        jax.distributed.initialize(
            # Of the end of the first process the others hear from its hub: the runtime would end with a dump.
            _lasting(address) if index else address,
            count,
            index,
            devices,
            initialization_timeout=2 * int(PATIENCE),
            heartbeat_timeout_seconds=10 * int(SILENCE),
        )
        try:
            hub = _Hub(count) if index == 0 else None
            told = json.dumps(hub.addresses if hub else []).encode().ljust(_ADDRESS_BYTES)
            told = multihost_utils.broadcast_one_to_all(np.frombuffer(told, np.uint8))
            return Group(count, index, json.loads(bytes(told)), hub)
        except Exception as error:  # there is no hub yet, and Python's own end would wait for the others
            _say(f"{_name(index)}: another one was lost before all had come together ({_told(error)[1]})")
            os._exit(STOPPED)


def _number(name, environment):
    text = environment.get(name) or None
    if text and not text.isdecimal():
        raise InputError(f"{name} {text!r}", "it is a number", "give one, e.g. 0 for the first process")
    return text and int(text)


def _lasting(address):
    """An address here that stands for another one, and does not hang up when that does."""
    host, port = address.rsplit(":", 1)
    door = socket.create_server(("127.0.0.1", 0))

    def pass_on(source, target):
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)

    def connect(near):
        with near, suppress(OSError), socket.create_connection((host.strip("[]"), int(port))) as far:
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
        _say(f"waiting for the other processes, which meet at {where}")

    def give_up():
        _say(f"processes that meet at {where}: not all came within {PATIENCE:g} s; start all, and let them reach it")
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


class Group:
    """A process's place among several: its connection to the hub, and the threads that keep it."""

    def __init__(self, count: int, index: int, addresses: list, hub: "_Hub | None"):
        self.count, self.index, self.has_left, self._stops = count, index, False, False
        self._hub, self._answers = hub, queue.SimpleQueue()
        self._first, self._wire = addresses[0], _Wire(_connection(addresses[1:], index))
        self._heard = time.monotonic()
        for run in (self._listen, self._beat):
            threading.Thread(target=run, daemon=True).start()

    def gather(self, what: str, value: Any) -> list:
        """See `processes.gather`."""
        self._wire.send({"say": [what, value]})
        return self._answers.get()

    def leave(self) -> None:
        """Wait until all have come here, and let go."""
        import jax

        self.gather(_THE_END, None)
        self.has_left = True
        jax.distributed.shutdown()
        self._wire.close()

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends; a defect is printed, and ends it here."""
        code, line = _told(error)
        if code == STOPPED:  # mostly all do, and what they save they save together: the first waits for the others
            self._stops = True
            self._wire.send({"stops": True})
            with suppress(queue.Empty):
                self._answers.get(timeout=_GRACE)
        elif code != BAD_INPUT:
            time.sleep(_VERDICT)  # if another's loss made it fail, that is told, and ends this process
        self._wire.send({"failed": [code, line]})
        if code == _DEFECT:
            traceback.print_exception(error)
            self.end(code)

    def end(self, code: int) -> None:
        """End this process without waiting for the others."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        if self._hub:
            self._hub.wait(2.0)  # with it they would lose what it has to tell them
        os._exit(code)

    def _listen(self):
        for message in self._wire:
            self._heard = time.monotonic()
            if "said" in message:
                self._answers.put(message["said"])
            elif "ended" in message:
                self._lose(*message["ended"])
        if not self.has_left:
            self._lose(self._first, STOPPED, "was lost")

    def _beat(self):
        while not self.has_left:
            time.sleep(_BEAT)
            self._wire.try_send({})
            if time.monotonic() - self._heard > SILENCE:
                self._lose(self._first, STOPPED, f"gave no sign of life for {SILENCE:g} s")

    def _lose(self, name, code, line):
        """This process ends, since another one did."""
        if self._stops:  # it does anyway
            self._answers.put([])
            return
        again = "; run the same command again to go on from what was saved" if code == STOPPED else ""
        _say(f"{name}: {line}{again}")
        self.end(code)


class _Hub:
    """In the first process: hears all, says to all what each said, and sees who is lost."""

    def __init__(self, count: int):
        self._count, self._token, self._lock = count, secrets.token_hex(), threading.Lock()
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._door = socket.create_server(("", 0), family=family, backlog=count, dualstack_ipv6=dual)
        port, hosts = self._door.getsockname()[1], [socket.gethostname(), _own_address(), "127.0.0.1"]
        self.addresses = [_name(0), self._token, *([host, port] for host in dict.fromkeys(hosts))]
        self._wires: dict[int, _Wire] = {}
        self._names: dict[int, str] = {}
        self._heard: dict[int, float] = {}
        self._said: dict[int, list] = {}
        self._over, self._last_word = False, None
        for run in (self._open_door, self._watch):
            threading.Thread(target=run, daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Until the others are gone, so many seconds at most."""
        until = time.monotonic() + seconds
        while len(self._wires) > 1 and time.monotonic() < until:
            time.sleep(0.02)

    def _open_door(self):
        with self._door:
            while len(self._heard) < self._count:
                connection, _ = self._door.accept()
                connection.settimeout(_HELLO)
                wire = _Wire(connection)
                messages = iter(wire)
                hello = next(messages, {})
                if hello.get("token") != self._token:  # not one of ours
                    wire.close()
                    continue
                connection.settimeout(None)
                who = hello["index"]
                with self._lock:
                    self._wires[who], self._names[who], self._heard[who] = wire, hello["name"], time.monotonic()
                wire.welcome()
                if self._last_word:  # one that came before it is gone already
                    wire.send(self._last_word)
                threading.Thread(target=self._hear, args=(who, wire, messages), daemon=True).start()

    def _hear(self, who, wire, messages):
        for message in messages:
            self._heard[who] = time.monotonic()
            if "say" in message:
                self._answer(who, message["say"])
            elif "stops" in message:
                self._answer(who, None)
            elif "failed" in message:
                self._end(who, *message["failed"], by_themselves=[who])
        self._wires.pop(who, None)
        wire.close()
        self._end(who, STOPPED, "was lost")

    def _answer(self, who, said):
        """Once all said something, or stop: nobody goes on before."""
        with self._lock:
            self._said[who] = said
            if len(self._said) < self._count:
                return
            said, self._said = self._said, {}
        asked = {who: said[who][0] for who in sorted(said) if said[who]}
        stops = [who for who in said if who not in asked]
        if stops:
            self._end(stops[0], STOPPED, "stopped", by_themselves=stops)
        elif len(set(asked.values())) > 1:
            self._end(0, _DEFECT, f"processes went different ways: {asked}")
        self._over |= asked.get(0) == _THE_END
        for who in stops or self._others_first():
            self._wires[who].send({"said": [] if stops else [said[other][1] for other in range(self._count)]})

    def _watch(self):
        while not self._over:
            time.sleep(_BEAT)
            for who, heard in list(self._heard.items()):
                if time.monotonic() - heard > SILENCE:
                    self._end(who, STOPPED, f"gave no sign of life for {SILENCE:g} s")
            for wire in list(self._wires.values()):
                wire.try_send({})

    def _end(self, who, code, line, by_themselves=()):
        """Tell all why they end, once, but those that end by themselves."""
        with self._lock:
            if self._over:
                return
            self._over, self._last_word = True, {"ended": [self._names[who], code, line]}
            told = [self._wires[other] for other in self._others_first() if other not in by_themselves]
        for wire in told:
            wire.send(self._last_word)

    def _others_first(self):
        """The processes that are there, the first one last: with it the hub goes."""
        return sorted(self._wires, reverse=True)


class _Wire:
    """Messages over a connection, a line of JSON each; any thread may send. What nobody hears any more is dropped."""

    def __init__(self, connection: socket.socket):
        self._connection, self._lock = connection, threading.Lock()

    def send(self, message: Any) -> None:
        with self._lock, suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def try_send(self, message: Any) -> None:
        """Unless something is being sent, which says as much."""
        if not self._lock.locked():
            self.send(message)

    def welcome(self) -> None:
        """What `_connection` waits for."""
        with suppress(OSError):
            self._connection.sendall(b"\n")

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def __iter__(self) -> Iterator[dict]:
        with suppress(OSError), self._connection.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)


def _connection(addresses, index):
    """To the hub, at the first of its addresses where it answers."""
    token, *addresses = addresses
    for host, port in addresses:
        with suppress(OSError):
            connection = socket.create_connection((host, port), timeout=_HELLO)
            hello = {"token": token, "index": index, "name": _name(index)}
            connection.sendall(json.dumps(hello).encode() + b"\n")
            if connection.recv(1):  # its welcome: somebody else would not answer
                connection.settimeout(None)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
    shown = ", ".join(f"{host}:{port}" for host, port in addresses)
    raise ConnectionError(f"the first one does not answer at {shown}: are ports open between the hosts?")


def _name(index):
    """By which people find this process."""
    return f"process {index} ({socket.gethostname()}, pid {os.getpid()})"


def _own_address():
    """By which other hosts reach this one, as far as it knows; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("10.255.255.255", 1))
        return probe.getsockname()[0]
    return "127.0.0.1"


def _told(error) -> tuple[int, str]:
    """The exit code that an error stands for, and its line."""
    known = {Stopped: (STOPPED, "stopped"), Unread: (UNREAD, "nobody reads what it prints")}
    if type(error) in known:
        return known[type(error)]
    if isinstance(error, SystemExit):
        return error.code or DONE, "ended"
    line = str(error).strip().partition("\n")[0]
    return (
        (BAD_INPUT, line) if isinstance(error, InputError | OSError) else (_DEFECT, f"{type(error).__name__}: {line}")
    )


def _say(line):
    """One line on stderr, below a bar that may stand there."""
    with suppress(OSError, ValueError, Unread):
        print(f"\n{line}", file=sys.stderr, flush=True)


_group: Group | None = None
