"""What keeps several processes one: the hub of the first one, and each one's connection to it.

What all must know goes through it, but for arrays on devices, and every second a sign of life, from a thread of its
own, so that it goes on while a program compiles. Where a process fails, is lost or falls silent, the others end too,
with one line that names it.
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
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from narrative_jax.core.command import BAD_INPUT, STOPPED, UNREAD
from narrative_jax.core.errors import InputError, Stopped, Unread

SILENCE = 30.0  # seconds after which a process that gives no sign of life is lost
_BEAT = 1.0
_GRACE = 15.0  # seconds in which all stop where one does
_VERDICT = 6.0  # seconds in which the hub hears of a process whose loss made an operation of this one fail
_HELLO = 10.0  # seconds in which a connection says whose it is
MEETING = 60.0  # seconds in which all find the hub, once they have come together
_DEFECT = 1
_OPEN = "open the ports between the hosts"
_THE_END = "the end"


class Group:
    """A process's place among several: its connection to the hub, and the threads that keep it."""

    def __init__(self, count: int, index: int, addresses: list, hub: "Hub | None"):
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
        code, line = told(error)
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
        say(f"{name}: {line}{again}")
        self.end(code)


class UnreachableError(ConnectionError):
    """The hub does not answer."""


class Hub:
    """In the first process: hears all, says to all what each said, and sees who is lost."""

    def __init__(self, count: int):
        self._count, self._token, self._lock = count, secrets.token_hex(), threading.Lock()
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._door = socket.create_server(("", 0), family=family, backlog=count, dualstack_ipv6=dual)
        port, hosts = self._door.getsockname()[1], [socket.gethostname(), _own_address(), "127.0.0.1"]
        self.addresses = [name_of(0), self._token, *([host, port] for host in dict.fromkeys(hosts))]
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
                hello = _hello(messages)
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
        until = time.monotonic() + MEETING
        while not self._over:
            time.sleep(_BEAT)
            missing = [who for who in range(self._count) if who not in self._heard]
            if missing and time.monotonic() > until:
                self._names.setdefault(missing[0], f"process {missing[0]}")
                self._end(missing[0], BAD_INPUT, f"did not reach process 0 within {MEETING:g} s; {_OPEN}")
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


def _hello(messages):
    """What a connection says first; nothing where that is no message, as of somebody who looks for open ports."""
    with suppress(ValueError):
        said = next(messages, {})
        return said if isinstance(said, dict) else {}
    return {}


def _connection(addresses, index):
    """To the hub, at the first of its addresses where it answers."""
    token, *addresses = addresses
    for host, port in addresses:
        with suppress(OSError):
            connection = socket.create_connection((host, port), timeout=_HELLO)
            hello = {"token": token, "index": index, "name": name_of(index)}
            connection.sendall(json.dumps(hello).encode() + b"\n")
            if connection.recv(1):  # its welcome: somebody else would not answer
                connection.settimeout(None)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
    shown = ", ".join(f"{host}:{port}" for host, port in addresses)
    raise UnreachableError(f"process 0 does not answer at {shown}; {_OPEN}")


def name_of(index: int) -> str:
    """By which people find this process."""
    return f"process {index} ({socket.gethostname()}, pid {os.getpid()})"


def _own_address():
    """By which other hosts reach this one, as far as it knows; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("10.255.255.255", 1))
        return probe.getsockname()[0]
    return "127.0.0.1"


def told(error: BaseException) -> tuple[int, str]:
    """The exit code that an error stands for, and its line."""
    known = {Stopped: (STOPPED, "stopped"), Unread: (UNREAD, "nobody reads what it prints")}
    if type(error) in known:
        return known[type(error)]
    line = str(error).strip().partition("\n")[0]
    return (
        (BAD_INPUT, line) if isinstance(error, InputError | OSError) else (_DEFECT, f"{type(error).__name__}: {line}")
    )


def say(line: str) -> None:
    """One line on stderr, below a bar that may stand there."""
    with suppress(OSError, ValueError, Unread):
        print(f"\n{line}", file=sys.stderr, flush=True)
