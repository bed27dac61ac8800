"""A run directory made ready: no other run is at work in it, it holds nothing stale, and all processes see it."""

import fcntl
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from narrative_jax.core import processes
from narrative_jax.core.config import differences, resolved
from narrative_jax.core.errors import InputError
from narrative_jax.core.files import check_writable, write_bytes, write_json
from narrative_jax.core.hashing import Hashes
from narrative_jax.runs.directory import CONFIG, HASHES, MANIFEST, Context
from narrative_jax.runs.provenance import check_fresh, trace

_PACKAGES = ("narrative_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@contextmanager
def opened(
    contexts: Sequence[Context], stage: str | None, redo: Sequence[str]
) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """The run directory of these entries, held until the block ends; gives what each is made from, where it is written.

    The entries of `redo`, with all that are made from them, are gone. Raises InputError where the directory holds what
    was made from something else, then before anything is touched; where another run is at work in it; and where the
    processes do not see the same one, or were started with other configs or flags.
    """
    config, workdir = contexts[0].config, contexts[0].workdir
    _check_started_alike(config, {"stage": stage, "redo": redo})
    if not processes.is_first():
        _check_shared(workdir)
        yield {}
        return
    hashes = Hashes(workdir / HASHES)
    if (workdir / CONFIG).exists():
        check_fresh(contexts, trace(contexts, hashes), redo)
    with _claimed(workdir):
        inputs = _made_ready(contexts, workdir, hashes, redo)
        _check_shared(workdir)
        yield inputs


def _made_ready(contexts, workdir, hashes, redo):
    """What each entry is made from, once the run directory holds nothing that is made from something else."""
    found = trace(contexts, hashes)
    again = check_fresh(contexts, found, redo)
    hashes.save()
    for name in again:
        shutil.rmtree(workdir / name, ignore_errors=True)
    for name in found.longer:
        (workdir / name / MANIFEST).unlink(missing_ok=True)
        print(f"{name}: goes on with more steps; what is made from it is done again", flush=True)
    write_json(workdir / CONFIG, resolved(contexts[0].config))
    return found.inputs


def _check_started_alike(config, flags):
    """Raise InputError unless all processes were started with one config, with these flags and package versions.

    It names what is not alike. Until all are known to be, none goes on.
    """
    if processes.count() == 1:
        return
    started = {"config": resolved(config), "flags": flags, "packages": {name: version(name) for name in _PACKAGES}}
    of_all = processes.gather("what is run", started)
    if different := differences(of_all[0], of_all[processes.index()]):
        shown = ", ".join(different[:8]) + (f" and {len(different) - 8} more" if len(different) > 8 else "")
        rule = f"it was started otherwise than process 0, which stands first here: {shown}"
        raise InputError(f"process {processes.index()}", rule, "start all with the same command and packages")
    processes.wait_for_all("the same is run")


@contextmanager
def _claimed(workdir: Path) -> Iterator[None]:
    """The run directory, held against a second run until the process ends. Raises InputError."""
    check_writable(workdir)
    # A lock of lockf, unlike one of flock, does not outlive a killed run in its forked workers.
    with open(workdir / ".lock", "w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            rule = "another run is at work there"
            raise InputError(f"workdir {workdir}", rule, "wait for it, or choose another --workdir") from error
        except OSError:
            pass  # a file system without locks
        yield


def _check_shared(workdir):
    """Raise InputError unless all processes see the run directory of the first one."""
    if processes.count() == 1:
        return
    mark = workdir / ".shared"
    token = processes.gather("the mark of the run directory", secrets.token_hex())[0]
    if processes.is_first():
        write_bytes(mark, token.encode())
    if not processes.is_seen(lambda: mark.exists() and mark.read_text() == token):
        rule = f"process {processes.index()} does not see there what process 0 writes"
        raise InputError(f"workdir {workdir.absolute()}", rule, "give one on a file system that all hosts share")
    processes.wait_for_all("the run directory")
    if processes.is_first():
        mark.unlink()
