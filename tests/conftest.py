"""Fixtures of all rooms."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Started in the background a shell makes its children deaf to Ctrl-C, and theirs too; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings; tests that need it are skipped where there is none."""
    folder = os.environ.get("EARSHOT_DATA")
    if not folder:
        pytest.skip("EARSHOT_DATA is not set: no real recordings")
    return Path(folder)


@pytest.fixture(scope="session")
def shipped(tmp_path_factory) -> Path:
    """The shipped checkpoint, exported as a user does."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "export", "models/happy-base", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    return out / "happy-base"


@pytest.fixture(scope="session")
def bundle(shipped: Path) -> Path:
    """What most tests want to run; those of the runtime put a toy in its place."""
    return shipped
