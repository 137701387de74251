"""What plays into the null sink that the tests' microphone hears."""

import importlib.util
import select
import shutil
import subprocess
from pathlib import Path

import pytest

MISSING = [program for program in ("pulseaudio", "paplay", "pactl") if shutil.which(program) is None]
if importlib.util.find_spec("pyaudio") is None:
    MISSING.append("pyaudio")
needs_microphone = [
    pytest.mark.microphone,
    pytest.mark.skipif(bool(MISSING), reason=f"a microphone needs {', '.join(MISSING)}"),
]


def play(environment: dict[str, str], path: Path) -> None:
    """Returns when it was played."""
    subprocess.run(["paplay", "--device=mic", path], env=environment, check=True, timeout=60)


def wait_until_it_listens(process: subprocess.Popen) -> None:
    """The meter's first line says that audio flows."""
    assert select.select([process.stderr], [], [], 60)[0], "no audio came from the microphone"
    line = process.stderr.readline()
    assert b"dB" in line, line
