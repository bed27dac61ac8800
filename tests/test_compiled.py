"""Programs on the disk: read again, never half, and nothing of it outlives the block."""

import math

import jax
import jax.numpy as jnp
import pytest

from narrative_jax.core import compiled
from narrative_jax.core.compiled import compiled_in


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


@pytest.mark.parametrize("left", [0, 100], ids=["nothing", "half"])
def test_what_a_kill_or_a_full_disk_left_is_compiled_again(tmp_path, recwarn, left):
    """And what lies beside, as tuning of a GPU's programs, stays."""
    (tmp_path / "tuned-cache").mkdir(parents=True)
    (tmp_path / "tuned").write_text("as it is")
    with compiled_in(tmp_path, True):
        run(5)
    broken = next(path for path in tmp_path.iterdir() if path.name.startswith("jit_"))
    whole = broken.stat().st_size
    broken.write_bytes(broken.read_bytes()[:left])
    with compiled_in(tmp_path, True):
        run(5)
    assert broken.stat().st_size == pytest.approx(whole, abs=64) and (tmp_path / "tuned").read_text() == "as it is"
    assert not [warning for warning in recwarn if "compilation cache" in str(warning.message)]


def test_nothing_outlives_a_defect(tmp_path):
    with pytest.raises(ZeroDivisionError), compiled_in(tmp_path, True):
        raise ZeroDivisionError
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_of_one_s_own_stays(tmp_path):
    own, other = tmp_path / "own", tmp_path / "other"
    compiled._set({"jax_compilation_cache_dir": f"{own}"})
    with compiled_in(other, True):
        assert jax.config.jax_compilation_cache_dir == f"{own}"
    assert not other.exists()
