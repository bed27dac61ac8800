import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from several_processes import places_of

from narrative_jax.core import hub, processes
from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Candidate, Score
from narrative_jax.data.datasets import open_records
from narrative_jax.models.checkpoints import read_arrays

SCRIPT = Path(__file__).with_name("one_of_several.py")
AGAIN = "run the same command again to go on from what was saved"


def start(command, places, **more):
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **places, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(started, seconds=150):
    """Exit code, stdout and stderr of each; whoever does not end, as a stopped one, is killed then."""
    deadline, found = time.monotonic() + seconds, []
    for process in started:
        try:
            out, err = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        found.append((process.returncode, out, err))
    return found


def lines(text, but=("[Gloo]", "waiting for the other processes")):
    """What is meant for people: the runtime says a line when it connects, and a busy machine lets them wait."""
    return [line for line in text.splitlines() if line and not line.startswith(but)]


def test_one_process_is_all_there_are():
    assert (processes.count(), processes.index(), processes.is_first()) == (1, 0, True)
    assert processes.gather("any", 3) == [3] and processes.first_does("it", lambda: "done") == "done"
    assert processes.in_shares("rows", 3, lambda rows: [row * row for row in rows]) == [0, 1, 4]
    assert processes.in_shares("none", 0, lambda rows: 1 / 0) == []
    assert processes.any_of("flag", True) and not processes.any_of("flag", False)
    with processes.joined():
        pass
    processes.end(2)


def test_what_several_tell_each_other():
    found = finish([start([SCRIPT, "talk"], places) for places in places_of(3)])
    assert [code for code, _, _ in found] == [0, 0, 0], found
    said = [{"mine": 0}, {"mine": 1}, {"mine": 2}]
    squares = [[0, 0, 0], [1, 1, 1], [2, 4, 2], [3, 9, 0], [4, 16, 1]]
    assert lines(found[0][1]) == [f"{said} only here True False {squares}"]
    assert not any(lines(out) for _, out, _ in found[1:]), "the first one speaks for all"
    assert not any(lines(err) for _, _, err in found)


@pytest.mark.parametrize("who", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.parametrize(
    ("kind", "own", "others", "code"),
    [
        ("bad_input", "pictures '': there is none; give some", "pictures '': there is none; give some", 2),
        ("defect", "KeyError: 'missing'", "KeyError: 'missing'", 1),
        ("killed", None, f"was lost; {AGAIN}", 75),
        ("silent", None, f"gave no sign of life for 4 s; {AGAIN}", 75),
        ("stopped", "stopped after saving; run the same command again to go on", f"stopped; {AGAIN}", 75),
        ("elsewhere", None, "processes went different ways: {0: '", 1),
    ],
)
def test_where_one_ends_all_end_and_say_why(kind, own, others, code, who):
    started = [start([SCRIPT, f"{kind} {who}"], places) for places in places_of(2)]
    begun = time.monotonic()
    found = finish([started[1 - who]])[0]
    assert time.monotonic() - begun < 60
    assert found[0] == code, found
    (told,) = lines(found[2])
    name = f"process {who} (" if kind != "elsewhere" else "process 0 ("
    assert told.startswith(name) and f": {others}" in told and f"pid {started[int(name[8])].pid})" in told
    if own:
        mine = finish([started[who]])[0]
        assert mine[0] == code and lines(mine[2])[-1] == own
    else:
        finish([started[who]], seconds=1)


@pytest.mark.slow
def test_who_works_without_a_word_is_not_lost():
    found = finish([start([SCRIPT, "computes 1"], places) for places in places_of(2)])
    # The first waits for something that the second, at the end of its work, does not ask for.
    assert "different ways" in found[0][2] + found[1][2] and "no sign of life" not in found[0][2] + found[1][2]


@pytest.mark.slow
def test_nobody_waits_for_ever_for_the_others():
    code, _, err = finish([start([SCRIPT, "alone"], places_of(2)[1])])[0]
    first, last = lines(err, but="[Gloo]")
    assert code == 2 and first.startswith("waiting for the other processes, which meet at localhost:")
    assert last.endswith("not all came within 8 s; start all, and let them reach it")


def test_ports_that_are_closed_between_hosts():
    """No job that queues itself again where one is lost should do so for this."""
    started = [start([SCRIPT, "walled_off"], places) for places in places_of(2)]
    first, second = finish(started)
    assert (first[0], second[0]) == (2, 2), (first, second)
    assert lines(second[2])[-1].endswith("process 0 does not answer at 127.0.0.1:1; open the ports between the hosts")
    assert lines(first[2])[-1] == "process 1: did not reach process 0 within 3 s; open the ports between the hosts"


def launch(workdir, places, *flags, **more):
    command = ["-m", "narrative_jax.launch", "--config=configs/adpo.py:tiny", f"--workdir={workdir}", *flags]
    return start(command, places, **more)


@pytest.mark.slow
def test_processes_that_were_started_otherwise(tmp_path):
    first, second = places_of(2)
    found = finish([launch(tmp_path, first), launch(tmp_path, second, "--config.align.batch_size=8")])
    message = "process 1: it was started otherwise than process 0, which stands first here: "
    message += "config.align.batch_size (4 there, 8 here); start all with the same command and packages"
    assert [code for code, _, _ in found] == [2, 2] and lines(found[1][2]) == [message]
    assert message in found[0][2] and not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_a_run_directory_that_they_do_not_share(tmp_path):
    again = "import sys; from narrative_jax import launch; from narrative_jax.core import processes"
    again += "; processes.SEEN_WITHIN = 1; sys.exit(launch.main())"
    flags = ["--config=configs/adpo.py:tiny", "--stage=generate"]
    started = [
        start(["-c", again, *flags, f"--workdir={tmp_path / name}"], places)
        for name, places in zip("ab", places_of(2), strict=True)
    ]
    found = finish(started)
    message = f"workdir {tmp_path / 'b'}: process 1 does not see there what process 0 writes; "
    message += "give one on a file system that all hosts share"
    assert [code for code, _, _ in found] == [2, 2] and lines(found[1][2]) == [message]
    assert message in found[0][2] and not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("first", "JAX_PROCESS_ID 'first': it is a number; give one, e.g. 0 for the first process"),
        ("", "JAX_PROCESS_ID is not set: no cluster tells it either; set it, from 0 for the first process"),
        ("2", "JAX_PROCESS_ID 2: the 2 processes are numbered from 0 to 1; give each its own"),
    ],
)
def test_a_place_that_is_none(given, message):
    code, _, err = finish([start([SCRIPT, "talk"], {**places_of(2)[0], "JAX_PROCESS_ID": given})])[0]
    assert code == 2 and lines(err) == [message]


@pytest.mark.parametrize("address", ["localhost", "localhost:port", ":8476", "localhost:0", "localhost:65536"])
def test_an_address_that_is_none(address):
    with pytest.raises(InputError, match=f"JAX_COORDINATOR_ADDRESS '{address}': it is host:port"):
        processes._check_place(address, 2, 1)


def test_a_port_that_another_has():
    with socket.create_server(("", 0)) as taken:
        address = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=r"cannot \(Address already in use\); choose another port"):
            processes._check_place(address, 2, 0)
        processes._check_place(address, 2, 1)
    processes._check_place(address, 2, 0)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xfe\n", b"[1]\n", b""])
def test_whoever_else_knocks_is_shown_out(said):
    door = hub.Hub(1)
    _, _, *places = door.addresses
    with socket.create_connection(places[-1], timeout=5) as stranger:
        stranger.sendall(said)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(1) == b""
    group = hub.Group(1, 0, door.addresses, None)
    assert group.gather("any", 3) == [3]
    group.has_left = door._over = True


SRUN = """#!/bin/bash
for number in 0 1; do
    export SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_TASKS=2 SLURM_NTASKS=2 SLURM_LOCALID=$number
    SLURM_PROCID=$number "$@" &
    tasks+=($!)
done
for task in ${tasks[@]}; do wait $task || code=$?; done
exit ${code:-0}
"""


@pytest.mark.parametrize(("ends", "queued"), [("done", False), ("stopped", True)])
def test_a_slurm_job(tmp_path, ends, queued):
    """With a srun that starts two tasks here; the job goes into the queue again where it was stopped."""
    programs = {
        "srun": SRUN,
        "scontrol": f'#!/bin/bash\necho "$@" > {tmp_path}/queued\n',
        "python": f'#!/bin/bash\nexec {sys.executable} {SCRIPT} "{"talk" if ends == "done" else "stopped"}"\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script = SCRIPT.parents[1] / "launch" / "slurm.sh"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": f"{os.getpid()}", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(["bash", script], env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == (75 if queued else 0), done.stderr
    assert ("only here" in done.stdout) != queued
    asked = tmp_path / "queued"
    assert (asked.read_text() if queued else asked.exists()) == (f"requeue {os.getpid()}\n" if queued else False)


EMBEDDED = ("--config.generator.preset=storybook", "--config.generator.weights=", "--config.align.total_steps=10")
EMBEDDED += ("--config.align.save_every=4", "--config.align.sample_every=5")


def wait_for(path, started, seconds=200):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline and all(process.poll() is None for process in started), finish(started, 1)
        time.sleep(0.1)


@pytest.mark.slow
def test_the_recipe_in_two_processes_is_that_of_one(tmp_path):
    """Also killed in two and gone on with in one; and a full disk of one of them ends both."""
    one, two, cut = (tmp_path / name for name in ("one", "two", "cut"))
    assert [code for code, _, _ in finish([launch(one, {}, *EMBEDDED)], 400)] == [0]
    found = finish([launch(two, places, *EMBEDDED) for places in places_of(2)], 400)
    assert [code for code, _, _ in found] == [0, 0], found
    assert not lines(found[1][1]) and "align: done in" in found[0][1]

    started = [launch(cut, places, *EMBEDDED) for places in places_of(2)]
    wait_for(cut / "align" / "checkpoints" / "4", started)
    started[1].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    found = finish(started[:1])
    assert time.monotonic() - begun < 20 and found[0][0] == 75 and "process 1 (" in lines(found[0][2])[-1]
    assert finish(started[1:])[0][0] == -signal.SIGKILL and not (cut / "align" / "manifest.json").exists()
    assert [code for code, _, _ in finish([launch(cut, {}, *EMBEDDED)], 400)] == [0]

    for other in (two, cut):
        compare(one, other)


def compare(one, other):
    """Pictures within a grey level, scores and order alike, losses within 1e-5."""
    folders = sorted(path.relative_to(one) for path in one.glob("**/candidates"))
    assert len(folders) >= 4
    for folder in folders:
        pairs = list(zip(*(open_records(run / folder, Candidate) for run in (one, other)), strict=True))
        assert all(a.id == b.id and a.seed == b.seed for a, b in pairs)
        assert max(np.abs(np.int16(a.image) - np.int16(b.image)).max() for a, b in pairs) <= 1
    for folder in sorted(path.relative_to(one) for path in one.glob("**/scores")):
        a, b = (open_records(run / folder, Score).columns("candidate_id", "scores") for run in (one, other))
        assert a["candidate_id"] == b["candidate_id"]
        np.testing.assert_allclose(a["scores"], b["scores"], rtol=0, atol=1e-3)
    texts = [(run / "align" / "metrics.jsonl").read_text() for run in (one, other)]
    a, b = ([json.loads(line) for line in text.splitlines()] for text in texts)
    assert [each["step"] for each in a] == [each["step"] for each in b] == list(range(1, 11))
    np.testing.assert_allclose([each["loss"] for each in a], [each["loss"] for each in b], rtol=1e-5)
    a, b = (json.loads((run / "summary.json").read_text()) for run in (one, other))
    assert a.keys() == b.keys() and a["screen/pairs"] == b["screen/pairs"]


REWARDS = """from narrative_jax.core.config import load

def get_config(variant=""):
    config = load("configs/reward.py:tiny")
    adapter = {"rank": 2, "alpha": 2.0, "targets": r"blocks\\..*", "segments": (), "seed": 0}
    with config.unlocked():
        config.adapted = {**config.scalar.to_dict(), "adapter": adapter}
        config.stages = ("generate", "score", "screen", "scalar", "adapted")
    return config
"""


@pytest.mark.slow
def test_rewards_are_trained_and_saved_where_each_process_holds_a_part(tmp_path):
    """Whole but for frozen towers, and as an adapter: spread over both, weights are as one process leaves them."""
    (tmp_path / "rewards.py").write_text(REWARDS)

    def run(name, places, *flags):
        command = ["-m", "narrative_jax.launch", f"--config={tmp_path / 'rewards.py'}", f"--workdir={tmp_path / name}"]
        return start([*command, *flags], places)

    assert [code for code, _, _ in finish([run("one", {})], 300)] == [0]
    found = finish([run("two", places, "--config.mesh.data=1", "--config.mesh.fsdp=2") for places in places_of(2)], 300)
    assert [code for code, _, _ in found] == [0, 0], found
    for entry, file in {"scalar": "weights.safetensors", "adapted": "adapter.safetensors"}.items():
        (one, about), (two, also) = (read_arrays(tmp_path / name / entry / file) for name in ("one", "two"))
        assert one.keys() == two.keys() and about == also, "the hash of what it stands on among it"
        for key, value in one.items():
            np.testing.assert_allclose(np.float32(two[key]), np.float32(value), atol=2e-3)
        one, two = (json.loads((tmp_path / name / entry / "calibration.json").read_text()) for name in ("one", "two"))
        np.testing.assert_allclose(two["std"], one["std"], rtol=0.05)
