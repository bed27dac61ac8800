"""The main recipe, whole, on eight devices: every stage divides its batches, and ends where one device does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from narrative_jax.core.records import Candidate, Preference
from narrative_jax.data.datasets import open_records

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "adpo.py"
MESHES = {"default": {}, "cube": {"data": 2, "fsdp": 2, "tensor": 2}}
EIGHT = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
# The usual β multiplies the rounding of margins by 250.
SIZES = {"sampling.batch_size": 8, "align.batch_size": 8, "align.hyper.beta": 50.0}


def run(workdir, weights, mesh, **environment):
    changes = {**SIZES, "generator.weights": weights, **{f"mesh.{axis}": size for axis, size in mesh.items()}}
    command = [sys.executable, "-m", "narrative_jax.launch", f"--config={CONFIG}:tiny", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((workdir / "summary.json").read_text())


@pytest.fixture(scope="module")
def one_device(tiny_weights, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one") / "run"
    return run(workdir, tiny_weights, {}), workdir


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_the_main_recipe_on_eight_devices(tmp_path, tiny_weights, one_device, mesh):
    numbers = run(tmp_path / "run", tiny_weights, MESHES[mesh], **EIGHT)
    expected, workdir = one_device
    assert (tmp_path / "run" / "align" / "samples" / "step-000002.png").exists(), "12 pictures on 8 devices"
    assert (tmp_path / "run" / "report.html").exists()
    folders = tmp_path / "run", workdir
    here, there = (open_records(folder / "generate" / "candidates", Candidate) for folder in folders)
    images = [np.stack([each.image for each in records]).astype(int) for records in (here, there)]
    assert np.abs(images[0] - images[1]).max() <= 1, "rounding, no more"
    pairs = [open_records(folder / "screen" / "preferences", Preference) for folder in folders]
    assert len(pairs[0]) == len(pairs[1]) == expected["screen/pairs"] > 0
    assert numbers["compile/align"] == 1
    assert numbers["align/loss"] == pytest.approx(expected["align/loss"], rel=1e-4)
