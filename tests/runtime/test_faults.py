"""What happens to a microphone in a year, each done to a real process from outside: stopped, unplugged, muted, hung.

A PulseAudio of its own plays the sound card: its null sink can be removed and put back, and the server can be stopped.
"""

import fcntl
import importlib.util
import os
import select
import shutil
import signal
import subprocess
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from lines import Lines

MISSING = [program for program in ("pulseaudio", "paplay", "pactl") if shutil.which(program) is None]
if importlib.util.find_spec("pyaudio") is None:
    MISSING.append("pyaudio")
pytestmark = [
    pytest.mark.microphone,
    pytest.mark.skipif(bool(MISSING), reason=f"a microphone needs {', '.join(MISSING)}"),
]


def play(environment: dict[str, str], path: Path) -> None:
    subprocess.run(["paplay", "--device=mic", path], env=environment, check=True, timeout=30)


def pactl(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run(["pactl", *arguments], env=environment, check=True, timeout=30, stdout=subprocess.DEVNULL)


def add_sink(environment: dict[str, str]) -> None:
    pactl(environment, "load-module", "module-null-sink", "sink_name=mic", "rate=48000")


@pytest.fixture
def loud(tmp_path: Path) -> Path:
    with wave.open(str(tmp_path / "loud.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((16000 * np.sin(np.arange(8000))).astype("<i2").tobytes())
    return tmp_path / "loud.wav"


@pytest.fixture
def hear(listen, bundle, pulse, loud):
    """Start listening, and wait until something was heard."""

    def start(*arguments: str | Path) -> Lines:
        process = listen(bundle, "--meter", *arguments, env=pulse)
        assert select.select([process.stderr], [], [], 30)[0], "no audio came from the microphone"
        lines = Lines(process)
        time.sleep(1)
        play(pulse, loud)
        lines.until(10, keyword="loud")
        time.sleep(1.5)
        return lines

    return start


def test_sigterm_ends_with_a_summary(hear):
    summary = hear().end()
    assert summary["detections"] == 1 and summary["hops"] > 20 and summary["time_s"] == pytest.approx(
        summary["hops"] * 0.08)


def test_a_stop_that_the_server_bridges_loses_nothing(hear, pulse, loud):
    lines = hear()
    lines.process.send_signal(signal.SIGSTOP)
    play(pulse, loud)
    time.sleep(8)
    lines.process.send_signal(signal.SIGCONT)
    lines.until(5, keyword="loud")
    time.sleep(1.5)
    summary = lines.end()
    assert summary["detections"] == 2 and "gap" not in summary["events"]


def same_time(before: dict, started: float, after: dict, within: float) -> None:
    """The stream's time went on as ours did, whatever was lost in between."""
    assert after["time_s"] - before["time_s"] == pytest.approx(time.monotonic() - started, abs=within)


@pytest.mark.slow
def test_a_stop_longer_than_the_server_bridges_is_a_gap(hear, pulse, loud):
    """PulseAudio keeps 4 MB for a stopped reader: 131 s at 16 kHz."""
    lines = hear()
    play(pulse, loud)
    before, started = lines.until(5, keyword="loud"), time.monotonic()
    lines.process.send_signal(signal.SIGSTOP)
    time.sleep(150)
    lines.process.send_signal(signal.SIGCONT)
    gap = lines.until(20, event="gap")
    assert 10 < gap["lost_s"] < 30
    time.sleep(2)
    play(pulse, loud)
    same_time(before, started, lines.until(5, keyword="loud"), 0.8)
    assert lines.end()["events"]["gap"] == gap["count"]


def test_a_reader_of_our_lines_that_stalls_is_a_gap(listen, bundle, pulse, loud):
    """The main thread hangs in its own output, as with a log that hangs; the ring keeps eight seconds."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    process = listen(bundle, "--meter", env=pulse, stdout=write)
    assert select.select([process.stderr], [], [], 30)[0]
    time.sleep(1.5)
    lines = Lines(process, read)
    play(pulse, loud)
    before, started = lines.until(5, keyword="loud"), time.monotonic()
    time.sleep(1.5)
    os.write(write, b"\n" * 4096)  # full
    play(pulse, loud)
    time.sleep(12)
    assert os.read(read, 4096).strip() == b""
    lines.until(5, keyword="loud")
    gap = lines.until(5, event="gap")
    assert gap["reason"] == "reader too late" and gap["lost_s"] == pytest.approx(12 - 8, abs=1)
    time.sleep(0.5)
    play(pulse, loud)
    same_time(before, started, lines.until(5, keyword="loud"), 0.5)
    assert lines.end()["detections"] == 3
    os.close(write)
    os.close(read)


def test_a_sound_server_that_hiccups_keeps_the_time_true(hear, pulse, loud, pulse_server):
    lines = hear()
    play(pulse, loud)
    before, started = lines.until(5, keyword="loud"), time.monotonic()
    for _ in range(3):
        time.sleep(1)
        pulse_server.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        pulse_server.send_signal(signal.SIGCONT)
    time.sleep(1.5)
    play(pulse, loud)
    same_time(before, started, lines.until(5, keyword="loud"), 0.4)
    lines.end()


def test_an_unplugged_microphone_comes_back(hear, pulse, loud):
    lines = hear()
    play(pulse, loud)
    before, started = lines.until(5, keyword="loud"), time.monotonic()
    for round_ in range(2):
        pactl(pulse, "unload-module", "module-null-sink")
        lost = lines.until(10, event="microphone_lost")
        assert lost["count"] == round_ + 1 and lost["device"] == "default"
        time.sleep(4)
        add_sink(pulse)
        returned = time.monotonic()
        back = lines.until(5, event="microphone_back")
        assert back["gone_s"] >= 4
        play(pulse, loud)
        found = lines.until(6, keyword="loud")
        assert time.monotonic() - returned < 6.5  # 5 s to detect, 1 s to play on a busy machine
        assert found["time_s"] - before["time_s"] == pytest.approx(time.monotonic() - started, abs=1)
    summary = lines.end()
    assert summary["detections"] == 4 and summary["events"]["gap"] == 2


def test_a_sound_server_that_hangs(hear, pulse, loud, pulse_server):
    lines = hear()
    pulse_server.send_signal(signal.SIGSTOP)
    time.sleep(6)
    pulse_server.send_signal(signal.SIGCONT)
    lines.until(10, event="microphone_lost")
    lines.until(10, event="microphone_back")
    time.sleep(0.5)
    play(pulse, loud)
    lines.until(5, keyword="loud")
    lines.end()


def test_it_ends_in_time_while_the_sound_server_hangs(hear, pulse_server):
    lines = hear()
    pulse_server.send_signal(signal.SIGSTOP)
    time.sleep(4)
    try:
        lines.end()
    finally:
        pulse_server.send_signal(signal.SIGCONT)


def test_a_muted_microphone_is_told_and_opened_again(hear, pulse, loud):
    lines = hear("--silence", "3")
    silent = lines.until(10, event="microphone_silent")
    assert silent["seconds"] == 3
    time.sleep(1)
    play(pulse, loud)
    lines.until(5, keyword="loud")
    lines.until(5, event="microphone_heard")
    events = lines.end()["events"]
    assert "microphone_lost" not in events and events["gap"] >= 1 and events["microphone_heard"] == 1


def test_a_microphone_that_comes_later(listen, bundle, pulse, loud):
    pactl(pulse, "unload-module", "module-null-sink")
    process = listen(bundle, "--wait", env=pulse)
    lines = Lines(process)
    lines.until(30, event="microphone_lost")
    add_sink(pulse)
    lines.until(5, event="microphone_back")
    time.sleep(1)
    play(pulse, loud)
    lines.until(5, keyword="loud")
    lines.end()


def test_a_clock_set_back_changes_nothing(listen, bundle, pulse, loud, tmp_path):
    if shutil.which("faketime") is None:
        pytest.skip("a clock can be set back with faketime, which is missing")
    library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
    if library is None:
        pytest.skip("libfaketime.so.1 was not found")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = pulse | {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                           "DONT_FAKE_MONOTONIC": "1"}
    process = listen(bundle, "--meter", "--save-on-detect", tmp_path / "clips", env=environment)
    assert select.select([process.stderr], [], [], 30)[0]
    lines = Lines(process)
    time.sleep(1.5)
    play(pulse, loud)
    before, started = lines.until(10, keyword="loud"), time.monotonic()
    time.sleep(1.5)  # its clip is written half a second after it
    clock.write_text("-3600")
    time.sleep(2)
    play(pulse, loud)
    after = lines.until(10, keyword="loud")
    assert after["time_s"] - before["time_s"] == pytest.approx(time.monotonic() - started, abs=0.5)
    time.sleep(1.5)
    clock.write_text("+86400")
    time.sleep(1.5)
    summary = lines.end()
    assert not set(summary["events"]) - {"overflow"}
    clips = sorted((tmp_path / "clips").iterdir())
    assert [path.name[:7] for path in clips] == ["000001-", "000002-"]
    assert clips[0].name[7:] > clips[1].name[7:]  # the clock was back, the order is right all the same
