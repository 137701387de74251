"""What happens to a microphone in a year, each done to a real process from outside: stopped, unplugged, muted, hung.

A PulseAudio of its own plays the sound card: its null sink can be removed and put back, and the server can be stopped.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from lines import Lines
from sound import needs_microphone, play, wait_until_it_listens

pytestmark = needs_microphone


def pactl(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run(["pactl", *arguments], env=environment, check=True, timeout=30, stdout=subprocess.DEVNULL)


def add_sink(environment: dict[str, str]) -> None:
    pactl(environment, "load-module", "module-null-sink", "sink_name=mic", "rate=48000")


@pytest.fixture
def hear(listen, bundle, pulse):
    """Start listening, and wait until audio flows."""

    def start(*arguments: str | Path, output: int | None = None, **options: Any) -> Lines:
        process = listen(bundle, "--meter", *arguments, **{"env": pulse} | options)
        wait_until_it_listens(process)
        time.sleep(1)
        return Lines(process, output)

    return start


@pytest.fixture
def detected(pulse, loud):
    """Play the sound, and wait until it is detected → its line, and our time then."""

    def detected(lines: Lines) -> tuple[dict, float]:
        play(pulse, loud)
        return lines.until(30, keyword="loud"), time.monotonic()

    return detected


def assert_same_time(before: tuple[dict, float], after: tuple[dict, float], within: float) -> None:
    """The stream's time went on as ours did, whatever was lost in between."""
    assert after[0]["time_s"] - before[0]["time_s"] == pytest.approx(after[1] - before[1], abs=within)


def lost(lines: Lines) -> float:
    """Seconds in the gaps so far. A machine that is too busy to listen makes short ones of its own."""
    return sum(line["lost_s"] for line in lines.seen if line.get("event") == "gap")


def test_sigterm_ends_with_a_summary(hear, detected):
    lines = hear()
    detected(lines)
    summary = lines.end()
    assert summary["detections"] == 1 and summary["hops"] > 20
    assert summary["time_s"] == pytest.approx(summary["hops"] * 0.08)


def test_a_stop_that_the_server_bridges_loses_nothing(hear, pulse, loud):
    lines = hear()
    lines.process.send_signal(signal.SIGSTOP)
    play(pulse, loud)
    time.sleep(5)
    lines.process.send_signal(signal.SIGCONT)
    lines.until(30, keyword="loud")
    lines.end()
    assert lost(lines) < 0.5


@pytest.mark.slow
def test_a_stop_longer_than_the_server_bridges_is_a_gap(hear, detected):
    """PulseAudio keeps 4 MB for a stopped reader: 131 s at 16 kHz."""
    lines = hear()
    before = detected(lines)
    lines.process.send_signal(signal.SIGSTOP)
    time.sleep(150)
    lines.process.send_signal(signal.SIGCONT)
    lines.until(60, event="gap")
    time.sleep(4)
    assert_same_time(before, detected(lines), 0.8)
    assert lost(lines) > 10
    lines.end()


@pytest.mark.slow
def test_a_reader_of_our_lines_that_stalls_is_a_gap(hear, detected, pulse, loud):
    """The main thread hangs in its own output, as with a log that hangs; the ring keeps eight seconds."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    lines = hear(stdout=write, output=read)
    before = detected(lines)
    time.sleep(1)  # longer than the refractory time
    os.write(write, b"\n" * 4096)  # full
    play(pulse, loud)
    time.sleep(11)
    assert os.read(read, 4096).strip() == b""
    lines.until(30, keyword="loud")
    gap = lines.until(30, event="gap")
    assert gap["reason"] == "reader too late" and gap["lost_s"] == pytest.approx(11 - 8, abs=1)
    assert_same_time(before, detected(lines), 0.5)
    assert lines.end()["detections"] == 3
    os.close(write)
    os.close(read)


def test_a_sound_server_that_hiccups_keeps_the_time_true(hear, detected, pulse_server):
    lines = hear()
    before = detected(lines)
    for _ in range(2):
        pulse_server.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        pulse_server.send_signal(signal.SIGCONT)
        time.sleep(1)
    assert_same_time(before, detected(lines), 0.4)
    lines.end()


def test_an_unplugged_microphone_comes_back(hear, detected, pulse):
    lines = hear()
    before = detected(lines)
    for count in (1, 2):
        pactl(pulse, "unload-module", "module-null-sink")
        gone = time.monotonic()
        lost = lines.until(30, event="microphone_lost")
        assert lost["count"] == count and lost["device"] == "default"
        time.sleep(2.5)
        add_sink(pulse)
        away = time.monotonic() - gone
        back = lines.until(30, event="microphone_back")
        assert back["gone_s"] < away + 5  # seconds until its audio is heard again
        assert_same_time(before, detected(lines), 1)
    summary = lines.end()
    assert summary["detections"] == 3 and summary["events"]["gap"] == 2


@pytest.mark.slow
def test_a_sound_server_that_hangs(hear, detected, pulse_server):
    lines = hear()
    pulse_server.send_signal(signal.SIGSTOP)
    time.sleep(6)
    pulse_server.send_signal(signal.SIGCONT)
    lines.until(30, event="microphone_lost")
    lines.until(30, event="microphone_back")
    detected(lines)
    lines.end()


def test_it_ends_in_time_while_the_sound_server_hangs(hear, pulse_server):
    lines = hear()
    pulse_server.send_signal(signal.SIGSTOP)
    time.sleep(4)
    try:
        lines.end()
    finally:
        pulse_server.send_signal(signal.SIGCONT)


def test_a_muted_microphone_is_told_and_opened_again(hear, detected):
    lines = hear("--silence", "3")
    assert lines.until(30, event="microphone_silent")["seconds"] == 3
    time.sleep(1)
    detected(lines)
    lines.until(30, event="microphone_heard")
    events = lines.end()["events"]
    assert "microphone_lost" not in events and events["gap"] >= 1 and events["microphone_heard"] == 1


def test_a_microphone_that_comes_later(listen, bundle, pulse, detected):
    pactl(pulse, "unload-module", "module-null-sink")
    lines = Lines(listen(bundle, "--wait", env=pulse))
    lines.until(60, event="microphone_lost")
    add_sink(pulse)
    lines.until(30, event="microphone_back")
    detected(lines)
    lines.end()


def test_a_clock_set_back_changes_nothing(hear, detected, pulse, tmp_path):
    if shutil.which("faketime") is None:
        pytest.skip("a clock can be set back with faketime, which is missing")
    library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
    if library is None:
        pytest.skip("libfaketime.so.1 was not found")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = pulse | {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                           "DONT_FAKE_MONOTONIC": "1"}
    lines = hear("--save-on-detect", tmp_path / "clips", env=environment)
    before = detected(lines)
    time.sleep(1.5)  # its clip is written half a second after it
    clock.write_text("-3600")
    time.sleep(1)
    assert_same_time(before, detected(lines), 0.5)
    time.sleep(1.5)
    clock.write_text("+86400")
    time.sleep(1)
    summary = lines.end()
    # Below libfaketime the listener cannot start the Python that tries the bundle.
    assert not set(summary["events"]) - {"overflow", "gap", "untried"} and lost(lines) < 0.5
    clips = sorted((tmp_path / "clips").iterdir())
    assert [path.name[:7] for path in clips] == ["000001-", "000002-"]
    assert clips[0].name[7:] > clips[1].name[7:]  # the clock was back, the order is right all the same
