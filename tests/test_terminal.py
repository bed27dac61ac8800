"""What commands print: in any encoding, with nothing that steers the terminal, until nobody reads any more."""

import os
import subprocess
import sys

import pytest

from narrative_jax.core.command import exit_code
from narrative_jax.core.errors import InputError

STEERING = "red \x1b[31m bell \a back \r up\x9b1A turned \u202e end"
ESCAPED = r"red \x1b[31m bell \x07 back \r up\x9b1A turned \u202e end"
PROGRAM = """
import sys
from narrative_jax.core.command import exit_code
sys.exit(exit_code(lambda: {body}))
"""


def run(body, **environment):
    """A command of this body as a process."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], env={**os.environ, **environment}, capture_output=True
    )


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, rb"\u25b2 \u03b2 caf\xe9"),
        ({"PYTHONIOENCODING": "latin-1"}, rb"\u25b2 \u03b2 caf" + b"\xe9"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, rb"\u25b2 \u03b2 caf\xe9"),
        ({"PYTHONIOENCODING": "utf-8"}, "▲ β café".encode()),
    ],
)
def test_a_terminal_that_cannot_show_a_letter(environment, shown):
    done = run(r"print('\u25b2 \u03b2 caf\xe9')", **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown + b"\n", b"")
    done = run(r"print('\u25b2 \u03b2 caf\xe9', file=sys.stderr)", **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", shown + b"\n")


def test_what_would_steer_the_terminal_is_escaped(capsys):
    def refuse():
        print(STEERING)
        print(STEERING, file=sys.stderr)
        raise InputError(f"prompt {STEERING}", "it\r\nis plain", "type one")

    before = sys.stdout, sys.stderr
    assert exit_code(refuse) == 2
    assert (sys.stdout, sys.stderr) == before
    out, err = capsys.readouterr()
    assert out == f"{ESCAPED}\n"
    shown, error = err.split("\n", 1)
    assert shown == ESCAPED.replace(r"\r", "\r"), "progress bars go back to the start of their line"
    assert error == f"prompt {ESCAPED}: it is plain; type one\n".replace(r" \r", "")


def test_a_name_with_bytes_that_are_no_utf_8(capsys):
    assert exit_code(lambda: print(os.fsdecode(b"caf\xe9"))) == 0
    assert capsys.readouterr().out == "caf\\udce9\n"


@pytest.mark.parametrize(
    "body", ["[print(n, flush=True) for n in range(10**6)]", "print('once')", "__import__('time').sleep(1)"]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_is_no_bad_input(body, unbuffered):
    """As `| head -1` does; the last body prints nothing, and so nobody is missed."""
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == (0 if "sleep" in body else 141)


def test_errors_that_nobody_reads():
    body = "[print('x', file=sys.stderr) for n in range(10**6)]"
    with subprocess.Popen([sys.executable, "-c", PROGRAM.format(body=body)], stderr=subprocess.PIPE) as process:
        process.stderr.close()
    assert process.returncode == 141


def test_another_broken_pipe_is_told(capsys):
    def broken():
        raise BrokenPipeError(32, "of a worker")

    assert exit_code(broken) == 2
    assert capsys.readouterr().err == "[Errno 32] of a worker\n"
