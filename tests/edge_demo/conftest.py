"""The Wyoming server as a process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import device
import pytest
from toy import write_bundle
from wake_server import WakeServer


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    started: list[WakeServer] = []

    def start(*arguments: object, wait: bool = True) -> WakeServer:
        started.append(WakeServer(tmp_path_factory.mktemp("server") / "log", *arguments, wait=wait))
        return started[-1]

    yield start
    for server in started:
        server.end()


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
