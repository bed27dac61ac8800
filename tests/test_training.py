"""The loop: resumes bit for bit, compiles once, stops in time, and what goes wrong is said in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_training import ALGORITHMS, BATCH, EXAMPLES, make_batch, make_trainee, run
from several_processes import places_of

from narrative_jax.core.errors import InputError, Stopped
from narrative_jax.core.mesh import make_mesh
from narrative_jax.core.stop import StopFlag
from narrative_jax.training.checkpoint import Checkpoints
from narrative_jax.training.loop import Schedule
from narrative_jax.training.metrics import Metrics
from narrative_jax.training.optimizer import METHODS, Optimizer
from narrative_jax.training.step import make_step, new_state

SCRIPT = Path(__file__).with_name("linear_training.py")


def bits(tree):
    return [(np.asarray(leaf).dtype, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


def numbers(folder):
    """The lines of metrics.jsonl without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line.pop("step_seconds") > 0 for line in lines)
    return lines


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Folder, end, ids of the batches and step of an undisturbed run of 6 steps."""
    folder, ids = tmp_path_factory.mktemp("straight"), []
    state, step = run(folder, look=lambda number, names: ids.append(names))
    return folder, state, ids, step


def crash_at(number, ids):
    def look(at, names):
        if at == number:
            raise RuntimeError("power cut")
        ids.append(names)

    return look


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_a_crash_changes_nothing(tmp_path, algorithm):
    whole, broken = [], []
    state, step = run(tmp_path / "a", algorithm=algorithm, look=lambda number, ids: whole.append(ids))
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "b", algorithm=algorithm, look=crash_at(6, broken))
    assert len(numbers(tmp_path / "b")) in (4, 5), "steps after the last checkpoint may have been written"
    del broken[4:]
    again, after = run(tmp_path / "b", algorithm=algorithm, look=lambda number, ids: broken.append(ids))
    assert broken == whole and len({*map(tuple, whole)}) == 6
    assert bits(again) == bits(state)
    assert numbers(tmp_path / "b") == numbers(tmp_path / "a")
    assert step.run._cache_size() == after.run._cache_size() == 1
    assert np.abs(state.params["delta"]).max() > 1e-3, "something was learned, else equality shows nothing"
    assert len(jax.tree.leaves(state.opt_state)) == 4, "two counts, and moments of what is trained only"


def test_a_run_at_its_end_is_only_read(tmp_path, straight):
    folder, state, _, _ = straight
    again, step = run(folder)
    assert bits(again) == bits(state) and step.run._cache_size() == 0
    assert [line["step"] for line in numbers(folder)] == [1, 2, 3, 4, 5, 6]


def test_a_stop_saves_first(tmp_path, straight):
    _, state, _, _ = straight
    stop = StopFlag()

    def look(number, ids):
        stop.requested = number == 3

    with pytest.raises(Stopped):
        run(tmp_path, stop=stop, look=look)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
    again, _ = run(tmp_path)
    assert bits(again) == bits(state)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "6"], "two are kept"


def test_a_stop_at_the_last_step_is_the_end(tmp_path):
    stop = StopFlag()
    stop.requested = True
    with pytest.raises(Stopped):
        run(tmp_path, stop=stop, steps=2)
    run(tmp_path, stop=stop, steps=2)


def test_a_loss_that_is_no_number(tmp_path, straight):
    ids = straight[2]
    bad = ids[4][3]
    assert all(bad not in names for names in ids[:4])
    with pytest.raises(InputError) as caught:
        run(tmp_path, bad=int(bad.removeprefix("example-")))
    message = str(caught.value)
    assert "loss nan" in message and "at step 5:" in message and ", ".join(ids[4]) in message
    assert "the last good checkpoint is step 4" in message and "\n" not in message
    assert [line["step"] for line in numbers(tmp_path)] == [1, 2, 3, 4]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "4"]


def test_a_loss_that_is_no_number_is_never_saved(tmp_path, straight):
    bad = int(straight[2][0][0].removeprefix("example-"))
    with pytest.raises(InputError, match=r"at step 1: its batch was .*; there is no checkpoint yet"):
        run(tmp_path, bad=bad, save_every=1)
    assert not list((tmp_path / "checkpoints").iterdir()) and not numbers(tmp_path)


def start(options, devices=1, environment=None):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, SCRIPT, json.dumps(options)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    return err


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    options = {"folder": f"{tmp_path / 'full'}", "width": 128, "limit_after": 2}
    err = finish(start(options), code=2)
    rule = "it could not be written (File too large); that of step 2 is still good"
    # TensorStore's threads tell of their closed event loops meanwhile, before it on the same line too.
    assert err.count(f"checkpoint of step 4: {rule}; free the disk and run again") == 1
    state, _ = run(tmp_path / "whole", width=128)
    again, _ = run(tmp_path / "full", width=128)
    assert bits(again) == bits(state)
    assert numbers(tmp_path / "full") == numbers(tmp_path / "whole")
    assert not list((tmp_path / "full" / "checkpoints").glob("*tmp*"))


def test_a_full_disk_while_writing_numbers(tmp_path, monkeypatch):
    metrics = Metrics(tmp_path, 0)

    def refuse(**content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics, "_add_event", refuse)
    with pytest.raises(InputError, match=r"metrics.jsonl: it cannot be written \(No space left on device\); free the"):
        metrics.write(1, {"loss": 1.0})
    metrics.close()


@pytest.mark.slow
def test_from_8_devices_to_4_and_to_two_processes(tmp_path, straight):
    """The same numbers on every mesh, and a checkpoint of one is read on another."""
    cube = {"data": 2, "fsdp": 2, "tensor": 2}
    one = {"folder": f"{tmp_path / 'one'}", "mesh": cube, "steps": 6, "stop_after": 4}
    two = {"folder": f"{tmp_path / 'two'}", "mesh": cube, "accumulate": 2, "stop_after": 3}
    eight = start(one, devices=8)
    finish(eight, code=75)
    pair = [start(two, devices=4, environment=places) for places in places_of(2)]
    for process in pair:
        finish(process, code=75)
    assert [path.name for path in sorted((tmp_path / "two" / "checkpoints").iterdir())] == ["2", "3"], "agreed at 3"
    four = start({**one, "mesh": {"data": 2, "fsdp": 2}, "stop_after": 0}, devices=4)
    finish(four)
    run(tmp_path / "two", steps=6)  # here on one device
    _, state, _, _ = straight
    end = np.load(tmp_path / "one" / "end.npz")
    assert end["compiled"] == 1
    close = {"rtol": 0, "atol": 1e-5 * np.abs(state.ema_params["delta"]).max()}
    np.testing.assert_allclose(end["delta"], state.ema_params["delta"], **close)
    for name in ("one", "two"):
        for line, expected in zip(numbers(tmp_path / name), numbers(straight[0]), strict=True):
            assert line == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoint of step 2, and the state that fits it."""
    state, _ = run(tmp_path, steps=2)
    return tmp_path / "checkpoints", state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: {**params, "more": params["delta"]}, "params.more is missing"),
        (lambda params: {}, "params.delta is not known"),
        (lambda params: {"delta": params["delta"][:4]}, r"params.delta is \(16, 16\), not \(4, 16\)"),
    ],
)
def test_a_checkpoint_of_something_else(saved, change, message):
    folder, state = saved
    checkpoints = Checkpoints(folder)
    with pytest.raises(InputError, match=rf"checkpoints/2: it does not fit what is trained: {message}; choose another"):
        checkpoints.restore(2, state._replace(params=change(state.params)))
    checkpoints.close()


@pytest.mark.parametrize("file", ["state/d/*", "state/_METADATA", "data/metadata", "data"])
def test_a_corrupt_checkpoint(saved, file):
    folder, state = saved
    damaged = list((folder / "2").glob(file))
    assert damaged
    for path in damaged:
        if path.is_dir():
            path.rename(path.with_name("elsewhere"))
        else:
            os.truncate(path, path.stat().st_size // 2)
    checkpoints = Checkpoints(folder)
    with pytest.raises(InputError, match=r"checkpoints/2: it cannot be read \(.+\); delete that folder$") as caught:
        checkpoints.restore(2, state)
    assert "\n" not in str(caught.value)
    checkpoints.close()


def test_metrics_go_on_where_the_checkpoint_is(tmp_path):
    metrics = Metrics(tmp_path, 0)
    for step in (1, 2, 3):
        metrics.write(step, {"loss": step / 2})
    metrics.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # killed in the midst of a line
    Metrics(tmp_path, 2).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 1.0}\n'
    assert list((tmp_path / "tensorboard").glob("*tfevents*"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(0, 1), "total_steps 0"),
        (lambda: Schedule(1, 0), "save_every 0"),
        (lambda: Schedule(1, 1, -1), "sample_every -1"),
        (lambda: Optimizer(1e-3, warmup_steps=4).build(4), "the warm-up ends before the training"),
        (
            lambda: Optimizer(1e-3, warmup_steps=5).schedule(4),
            "warmup_steps 5 of 4 steps: the warm-up ends before the training",
        ),
        (lambda: Optimizer(1e-3).build(0), "total_steps 0"),
        (lambda: Optimizer(1e-3, decay="cosin"), "did you mean 'cosine'"),
        (lambda: Optimizer(1e-3, method="moun"), "did you mean 'muon'"),
        (lambda: Optimizer(0.0), "learning_rate 0.0: learning_rate is a number > 0"),
        (lambda: Optimizer(1e-3, clip_norm=float("nan")), "clip_norm nan"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_learning_rate_warms_up_and_decays():
    rate = Optimizer(0.1, warmup_steps=2, decay="cosine").schedule(10)
    np.testing.assert_allclose([rate(step) for step in (0, 1, 2, 6, 10)], [0, 0.05, 0.1, 0.05, 0], atol=1e-7)
    rate = Optimizer(0.1, warmup_steps=2).schedule(10)
    np.testing.assert_allclose([rate(step) for step in (0, 1, 2, 9)], [0, 0.05, 0.1, 0.1], atol=1e-7)
    for decay in ("constant", "cosine"):
        assert Optimizer(0.1, decay=decay).schedule(10)(0) == pytest.approx(0.1), "without a warm-up"


def test_muon_moves_a_matrix_alike_in_all_directions_and_the_rest_as_adam():
    rng = np.random.default_rng(0)
    turned = [np.linalg.qr(rng.normal(size=(n, 4)))[0] for n in (6, 4)]
    gradients = {"kernel": jnp.float32(turned[0] * (8, 4, 2, 1) @ turned[1].T), "bias": jnp.float32([3.0, -0.2])}
    optimizer = Optimizer(0.1, method="muon", clip_norm=1e9).build(10)
    weights = jax.tree.map(jnp.zeros_like, gradients)
    updates, _ = optimizer.update(gradients, optimizer.init(weights), weights)
    np.testing.assert_allclose(updates["bias"], [-0.147, 0.147], rtol=0.01)  # Adam's first step, with Nesterov's look
    singular = np.linalg.svd(updates["kernel"], compute_uv=False)
    assert singular.max() / singular.min() < 2, "8 in the gradient"
    assert np.sqrt(np.mean(updates["kernel"] ** 2)) == pytest.approx(0.1 * (4 / 6) ** 0.5 * 0.9, rel=0.25)
    assert np.vdot(updates["kernel"], gradients["kernel"]) < 0


def test_muon_takes_each_block_of_a_stack_for_itself():
    """A stack's kernels are matrices, a block at a time, and its biases are none."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 6, 4), "bias": (3, 4), "scale": (3, 5)}
    drawn = {name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    updates = {}
    for kind in ("stacked", "apart"):
        gradients = {f"blocks.*.{name}": x for name, x in drawn.items()}
        if kind == "apart":
            gradients = {f"blocks.{n}.{name}": x[n] for name, x in drawn.items() for n in range(3)}
        optimizer = Optimizer(0.1, method="muon", clip_norm=1e9).build(10)
        weights = jax.tree.map(jnp.zeros_like, gradients)
        updates[kind], _ = optimizer.update(gradients, optimizer.init(weights), weights)
    for name, x in drawn.items():
        for n in range(3):
            np.testing.assert_allclose(
                updates["stacked"][f"blocks.*.{name}"][n], updates["apart"][f"blocks.{n}.{name}"], atol=1e-5
            )
        assert (np.sign(updates["stacked"][f"blocks.*.{name}"]) == -np.sign(x)).all() == (name != "kernel")


@pytest.mark.parametrize("method", METHODS)
def test_moments_lie_as_their_weights(method):
    trainee, optimizer = make_trainee(), Optimizer(0.1, method=method).build(2)
    step = make_step(ALGORITHMS["sft"], trainee, optimizer, make_mesh({}), seed=0, ema_decay=0.9)
    state = jax.device_put(new_state(trainee.params, optimizer), step.state_shardings)
    weights = step.state_shardings.params["delta"]
    assert tuple(weights.spec) == ("fsdp", "tensor")
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 2]
    assert moments and all(leaf.sharding == weights for leaf in moments)
    state, _ = step.run(state, trainee.frozen, make_batch(range(BATCH))[1])
    assert np.isfinite(state.params["delta"]).all()


def test_a_new_state_shares_no_buffer():
    params = make_trainee(delta=1.0).params
    state = new_state(params, Optimizer(0.1).build(2))
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, state))]
    assert len(set(places)) == len(places)


def test_every_step_and_seed_draws_its_own_noise():
    trainee, optimizer, (_, batch) = make_trainee(delta=1.0), Optimizer(0.1).build(2), make_batch(range(BATCH))

    def loss(seed, number):
        step = make_step(ALGORITHMS["sft"], trainee, optimizer, make_mesh({}), seed=seed, ema_decay=0.9)
        state = new_state(trainee.params, optimizer)._replace(step=jnp.int32(number))
        return float(step.run(state, trainee.frozen, batch)[1]["loss"])

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(0, 0), loss(0, 1), loss(1, 0)}) == 3


def test_the_averaged_weights_follow():
    trainee, optimizer, (_, batch) = make_trainee(delta=1.0), Optimizer(0.1).build(2), make_batch(range(BATCH))
    step = make_step(ALGORITHMS["sft"], trainee, optimizer, make_mesh({}), seed=0, ema_decay=0.15)
    before, state = trainee.params["delta"], new_state(trainee.params, optimizer)
    for decay in (0.1, 0.15):  # (1 + step) / (10 + step), at most ema_decay
        average = state.ema_params["delta"].copy()
        state, _ = step.run(state, trainee.frozen, batch)
        expected = decay * average + (1 - decay) * state.params["delta"]
        np.testing.assert_allclose(state.ema_params["delta"], expected, rtol=1e-6, atol=1e-7)
    assert np.abs(state.params["delta"] - before).max() > 0.05


def test_the_examples_of_these_tests_differ():
    ids, batch = make_batch(range(BATCH))
    assert len(set(ids)) == BATCH < EXAMPLES
    assert len({row.tobytes() for row in batch["latents"]}) == BATCH
