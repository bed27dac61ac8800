"""Programs on the disk: read again, never half, and nothing of it outlives the block."""

import math

import jax
import jax.numpy as jnp
import pytest

from narrative_jax.core import compiled
from narrative_jax.core.compiled import compiled_in
from narrative_jax.core.errors import Stopped


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    """As in a process whose environment names no folder; the smallest program counts."""
    before = jax.config.jax_compilation_cache_dir
    compiled._set({"jax_compilation_cache_dir": None})
    monkeypatch.setattr(compiled, "LEAST_SECONDS", 0.0)
    yield
    compiled._set({"jax_compilation_cache_dir": before})


def run(factor):
    return float(jax.jit(lambda x: jnp.sin(x) * factor)(2.0))


def programs(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_each_folder_has_its_own(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, factor in ((one, 3), (other, 4)):
        with compiled_in(folder, True):
            run(factor)
        assert jax.config.jax_compilation_cache_dir is None
    first, second = programs(one), programs(other)
    assert first and second and not first.keys() & second.keys()
    with compiled_in(one, True):
        assert run(3) == pytest.approx(3 * math.sin(2.0))
    assert programs(one) == first, "read, and not written again"


def test_a_killed_process_leaves_no_half_a_program(tmp_path, recwarn):
    def killed():
        with compiled_in(tmp_path, True):
            run(5)
            raise KeyboardInterrupt  # stands for a kill: the block's end is not reached whole

    with pytest.raises(KeyboardInterrupt):
        killed()
    newest = max((path for path in tmp_path.iterdir() if path.name != "open"), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:100])
    with compiled_in(tmp_path, True):
        run(5)
    assert newest.stat().st_size > 100 and not (tmp_path / "open").exists()
    assert not [warning for warning in recwarn if "compilation cache" in str(warning.message)]


def test_a_stopped_run_has_whole_ones(tmp_path):
    with pytest.raises(Stopped), compiled_in(tmp_path, True):
        run(6)
        raise Stopped
    before = programs(tmp_path)
    with compiled_in(tmp_path, True):
        pass
    assert before and programs(tmp_path) == before


def test_a_folder_of_one_s_own_stays(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    compiled._set({"jax_compilation_cache_dir": f"{own}"})
    with compiled_in(other, True):
        assert jax.config.jax_compilation_cache_dir == f"{own}"
    assert not other.exists()
