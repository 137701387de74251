"""The microphone for real: paplay → PulseAudio's null sink → its monitor → ALSA → PortAudio → PyAudio → the guide."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
from sound import needs_microphone, play
from speech import RATE, takes_of

from training.data import recordings

ROOT = Path(__file__).resolve().parents[3]
pytestmark = needs_microphone


@pytest.fixture
def start(tmp_path, pulse):
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-m", "training.record", *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = {**pulse, "PYTHONPATH": str(ROOT)}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], text: str) -> str:
    """What it writes up to a text; what comes after it is left for the next reader."""
    written = b""
    while not written.endswith(text.encode()):
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, f"{text!r} never came: {written.decode()!r} {process.stderr.read()}"
        written += byte
    return written.decode()


def test_a_guided_recording(start, pulse, tmp_path):
    soundfile.write(tmp_path / "take.wav", takes_of(1), RATE)
    process = start("hey juniper", "--speaker", "ann", "--takes", "4", "--talk", "0")
    for part in ("near", "far", "quiet", "quick"):
        assert part in until(process, "wait a second: ")
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(0.3)
        play(pulse, tmp_path / "take.wav")
        until(process, "1 of 1")
    until(process, "Somebody else")
    out, err = process.communicate("\n", timeout=20)
    assert process.returncode == 0 and not err
    assert "recordings/hey_juniper: 4 takes, speakers: 1" in out
    clips = recordings.clips_of(tmp_path / "recordings", words=True)
    assert len(clips) == 4 and all(RATE < len(clip.read()) < 1.5 * RATE for clip in clips)


def test_control_c_keeps_what_is_there(start, pulse, tmp_path):
    soundfile.write(tmp_path / "take.wav", takes_of(1), RATE)
    process = start("juniper", "--speaker", "ann", "--takes", "8")
    until(process, "wait a second: ")
    process.stdin.write("\n")
    process.stdin.flush()
    time.sleep(0.3)
    play(pulse, tmp_path / "take.wav")
    until(process, "1 of 3")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in err
    assert "stopped. recordings/juniper: 1 takes" in out


def test_a_microphone_that_is_not_there(start):
    out, err = start("juniper", "--device", "no such thing").communicate(timeout=30)
    assert err.startswith("record: error: no microphone 'no such thing'; there are: ") and err.count("\n") == 1
