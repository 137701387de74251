"""The toy bundle of the runtime's tests, and the server as a process."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def write_bundle() -> Callable[..., Path]:
    """`write_bundle` of tests/runtime/conftest.py: a bundle whose score follows the loudness."""
    spec = importlib.util.spec_from_file_location("runtime_fixtures", ROOT / "tests" / "runtime" / "conftest.py")
    assert spec and spec.loader
    fixtures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fixtures)
    return fixtures.write_bundle


class Process:
    """wyoming_server.py on a free port of this machine. log: what it has said so far."""

    def __init__(self, log: Path, *arguments: object, wait: bool = True) -> None:
        self._log = log
        command = [sys.executable, ROOT / "edge_demo" / "wyoming_server.py", "--uri", "tcp://127.0.0.1:0", *arguments]
        with log.open("wb") as file:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stderr=file, cwd=log.parent)
        self.port = 0
        while wait and not self.port and self.process.poll() is None:
            for line in self.log:
                if "listening on" in line:
                    self.port = int(line.split()[3].rpartition(":")[2])

    @property
    def log(self) -> list[str]:
        return self._log.read_text().splitlines()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    started: list[Process] = []

    def start(*arguments: object, wait: bool = True) -> Process:
        started.append(Process(tmp_path_factory.mktemp("server") / "log", *arguments, wait=wait))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.terminate()
            server.process.wait(10)


@pytest.fixture(scope="session")
def real_bundle() -> Path:
    """An exported bundle: EARSHOT_BUNDLE, or dist/happy-base."""
    folder = Path(os.environ.get("EARSHOT_BUNDLE") or ROOT / "dist" / "happy-base")
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"no bundle at {folder}: make export, or set EARSHOT_BUNDLE")
    return folder
