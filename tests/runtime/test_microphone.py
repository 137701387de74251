"""The microphone for real: paplay → PulseAudio's null sink → its monitor → ALSA → PortAudio → PyAudio → listen.py."""

import importlib.util
import json
import select
import shutil
import signal
import subprocess
import time
import wave
from pathlib import Path

import numpy as np
import pytest

MISSING = [program for program in ("pulseaudio", "paplay", "pactl") if shutil.which(program) is None]
if importlib.util.find_spec("pyaudio") is None:
    MISSING.append("pyaudio")
pytestmark = [
    pytest.mark.microphone,
    pytest.mark.skipif(bool(MISSING), reason=f"a microphone needs {', '.join(MISSING)}"),
]

def play(environment: dict[str, str], path: Path) -> None:
    subprocess.run(["paplay", "--device=mic", path], env=environment, check=True, timeout=30)


@pytest.fixture
def loud(tmp_path: Path) -> Path:
    with wave.open(str(tmp_path / "loud.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((16000 * np.sin(np.arange(8000))).astype("<i2").tobytes())
    return tmp_path / "loud.wav"


def wait_until_it_listens(process: subprocess.Popen) -> None:
    """The meter's first line says that audio flows."""
    assert select.select([process.stderr], [], [], 20)[0], "no audio came from the microphone"
    line = process.stderr.readline()
    assert b"dB" in line, line


@pytest.mark.parametrize("arguments", [[], ["--device", "default"]], ids=["default", "by name"])
def test_what_is_played_is_detected(listen, bundle, pulse, loud, arguments):
    process = listen(bundle, "--meter", *arguments, env=pulse)
    wait_until_it_listens(process)
    for _ in range(2):
        play(pulse, loud)
        assert select.select([process.stdout], [], [], 10)[0], "the sound was not detected"
        assert json.loads(process.stdout.readline())["keyword"] == "loud"
        time.sleep(1.5)  # longer than the refractory time
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0 and not out  # one detection for each
    assert b"Traceback" not in err and b"ALSA" not in err and b"error" not in err


def test_the_devices_are_listed(listen, pulse):
    out, err = listen("--list-devices", env=pulse).communicate(timeout=30)
    assert b"default" in out and not err


def test_a_microphone_that_is_not_there(listen, bundle, pulse):
    process = listen(bundle, "--device", "no such thing", env=pulse)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 2 and not out
    assert err == b"listen: error: no microphone 'no such thing': plug one in, or see --list-devices\n"
