"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The real data files: NARRATIVE_JAX_TEST_DATA, or beside the repository; skips where absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("NARRATIVE_JAX_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set NARRATIVE_JAX_TEST_DATA")
    return folder
