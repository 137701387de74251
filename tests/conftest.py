"""Fixtures of all rooms."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings; tests that need it are skipped where there is none."""
    folder = os.environ.get("EARSHOT_DATA")
    if not folder:
        pytest.skip("EARSHOT_DATA is not set: no real recordings")
    return Path(folder)
