"""What the runtime's tests share: the toy bundle, a microphone of PulseAudio's, and an MQTT broker."""

import os
import subprocess
import time
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


ALSA = """
pcm.!default { type pulse }
ctl.!default { type pulse }
"""


@pytest.fixture
def pulse(pulse_server: subprocess.Popen[bytes]) -> dict[str, str]:
    """Environment of whoever shall play into or record from that server."""
    return pulse_server.environment  # type: ignore[attr-defined]


@pytest.fixture
def pulse_server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A PulseAudio of its own, whose null sink `mic` is heard by the default ALSA device, and its `environment`."""
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "home").mkdir()
    configuration = tmp_path / "asound.conf"
    configuration.write_text("</usr/share/alsa/alsa.conf>\n" + ALSA)
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run"),
                   "PULSE_RUNTIME_PATH": str(tmp_path / "run"), "PULSE_SERVER": f"unix:{tmp_path / 'run' / 'native'}",
                   "PULSE_SOURCE": "mic.monitor", "ALSA_CONFIG_PATH": str(configuration)}
    server = subprocess.Popen(
        ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--disable-shm=yes",
         "-L", f"module-native-protocol-unix socket={tmp_path / 'run' / 'native'} auth-anonymous=1",
         "-L", "module-null-sink sink_name=mic rate=48000"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            if subprocess.run(["pactl", "info"], env=environment, capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        else:
            pytest.fail("pulseaudio did not start")
        server.environment = environment  # type: ignore[attr-defined]
        yield server
    finally:
        server.kill()  # it may be stopped
        server.wait()


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
