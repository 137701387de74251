"""The Wyoming server as a process."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import device
import pytest
from toy import write_bundle

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.fixture
def small_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return device.small_site(tmp_path, monkeypatch)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "loud-test")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.touch(0o600)
    path.write_text(device.SETTINGS)
    return path
