"""Fixtures of all rooms."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from registry import Registry

# Started in the background a shell makes its children deaf to Ctrl-C, and theirs too; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start listen.py as a script, in a folder that is not the repository; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str | Path, script: Path = ROOT / "runtime" / "listen.py", **options: Any) -> Any:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                   "cwd": tmp_path, "env": dict(os.environ)} | options
        options["env"].pop("PYTHONUNBUFFERED", None)  # it would hide a forgotten flush
        started.append(subprocess.Popen([sys.executable, str(script), *map(str, arguments)], **options))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


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


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A tiny one in the layout of Speech Commands: each word is a tone, each speaker a pitch."""
    base = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    time = np.arange(16_000) / 16_000
    lists: dict[str, list[str]] = {"validation": [], "testing": []}
    for word, hertz in {"happy": 500, "bed": 1500, "cat": 300}.items():
        for speaker in range(10):
            tone = np.sin(2 * np.pi * hertz * (1 + speaker / 50) * time) * (np.abs(time - 0.5) < 0.25) * 0.3
            name = f"{word}/{speaker:08x}_nohash_0.wav"
            path = base / "speech_commands" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, tone + rng.normal(0, 1e-3, 16_000), 16_000)
            if speaker >= 6:
                lists["validation" if speaker < 8 else "testing"].append(name)
    for split, names in lists.items():
        (base / "speech_commands" / f"{split}_list.txt").write_text("\n".join(names) + "\n")
    noise = base / "speech_commands" / "_background_noise_" / "hiss.wav"
    noise.parent.mkdir()
    soundfile.write(noise, rng.normal(0, 0.1, 80_000), 16_000)
    talk = base / "continuous" / "talk.wav"
    talk.parent.mkdir()
    soundfile.write(talk, rng.normal(0, 0.1, 160_000), 16_000)
    return base


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Registry:
    """Of Debian packages, empty at first; the test runs in a folder of its own, where none was unpacked."""
    found = Registry(tmp_path)
    monkeypatch.setenv("PATH", f"{found.tools}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return found
