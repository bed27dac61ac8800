"""What the package imports, and what it does not."""

import subprocess
import sys

import pytest

from narrative_jax.core.imports import without


def test_a_module_is_as_if_it_were_not_installed_and_then_as_before():
    import json

    with without("json"), pytest.raises(ImportError):
        __import__("json")
    assert __import__("json") is json
    with without("no_such_module"):
        pass
    assert "no_such_module" not in sys.modules


def test_a_run_imports_no_torch():
    """Libraries that would, where it is installed, cost each command seconds."""
    code = "from narrative_jax import pipeline; pipeline.default_tables(); import sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["False"]
