"""What the runtime's tests share: the toy bundle and an MQTT broker."""

import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broker import MOSQUITTO, Broker, Subscriber
from toy import GRAPH, HOP, write_bundle


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    return lambda **changes: write_bundle(tmp_path / "bundle", **changes)


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle()


@pytest.fixture
def graph() -> str:
    return GRAPH


@pytest.fixture
def noise() -> np.ndarray:
    """40 hops of noise whose level goes up and down, (40, 1280) float32."""
    random = np.random.default_rng(7)
    swell = 0.25 + 0.25 * np.sin(np.arange(40))[:, None]
    return (swell * random.standard_normal((40, HOP))).astype(np.float32)


@pytest.fixture
def loud(tmp_path: Path) -> Path:
    """Half a second that the toy bundle detects."""
    with wave.open(str(tmp_path / "loud.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((16000 * np.sin(np.arange(8000))).astype("<i2").tobytes())
    return tmp_path / "loud.wav"


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    started: list[Broker] = []

    def make(*lines: str) -> Broker:
        started.append(Broker(tmp_path, *lines))
        return started[-1]

    yield make
    for broker in started:
        broker.stop()


@pytest.fixture
def broker(make_broker) -> Broker:
    return make_broker()


@pytest.fixture
def subscribe() -> Iterator[Callable[..., Subscriber]]:
    made: list[Subscriber] = []

    def make(*arguments: Any) -> Subscriber:
        made.append(Subscriber(*arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()
