"""What happens on a detection: commands that hang, fail and fork; clips on disks that are full."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from lines import Lines, without_over

from runtime.errors import OptionsError
from runtime.sinks.keep import Keeper
from runtime.sinks.led import Led

LOUD = (0.5 * 32767 * np.sin(np.arange(16000))).astype("<i2").tobytes()
SILENCE = bytes(32000)


@pytest.fixture
def fed(listen, bundle):
    return lambda *arguments, **options: Lines(
        listen(bundle, "--stdin", *arguments, stdin=subprocess.PIPE, **options))


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def eventually(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_command_finds_the_detection_in_its_environment(fed, tmp_path):
    out = tmp_path / "said"
    values = "$EARSHOT_KEYWORD $EARSHOT_SCORE $EARSHOT_TIME $EARSHOT_BUNDLE $1 $2"
    hook = script(tmp_path / "hook", f'echo "{values}" > {out}.part; mv {out}.part {out}')
    listener = fed("--exec", f"{hook} 'two words; $(id)' '*'")
    listener.feed(LOUD)
    found = listener.until(20, keyword="loud")
    eventually(out.exists)
    assert out.read_text() == f"loud {found['score']} {found['time_s']} bundle two words; $(id) *\n"
    assert listener.end()["events"] == {}


def test_commands_that_hang_are_killed_and_hold_up_nothing(fed, tmp_path):
    hook = script(tmp_path / "hook", f"cd {tmp_path}; sleep 99 & echo $! >> children; echo $$ >> children; sleep 99")
    listener = fed("--exec", str(hook), "--exec-timeout", "3")
    start = 0.0
    for _ in range(6):  # four run at once
        listener.feed(LOUD, SILENCE, SILENCE)
        listener.until(20, keyword="loud")
        start = start or time.monotonic()
    assert time.monotonic() - start < 3  # none was waited for
    time.sleep(4)
    listener.feed(SILENCE)
    listener.until(20, event="hook_failed")
    children = (tmp_path / "children").read_text().split()
    assert len(children) == 8
    eventually(lambda: not any(alive(int(child)) for child in children))
    listener.feed(LOUD, SILENCE)  # there is room again
    listener.until(20, keyword="loud")
    eventually(lambda: len((tmp_path / "children").read_text().split()) == 10)
    summary = listener.end()
    assert summary["events"]["hook_dropped"] == 2 and summary["events"]["hook_failed"] >= 4
    eventually(lambda: not any(alive(int(child)) for child in (tmp_path / "children").read_text().split()))


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_commands_that_fail_or_fork_are_counted_and_cleared_away(fed, tmp_path):
    hook = script(tmp_path / "hook", f"(sleep 1000 & echo $! >> {tmp_path}/children); exit 3")
    listener = fed("--exec", str(hook))
    listener.feed(LOUD, SILENCE)
    listener.until(20, keyword="loud")
    eventually(lambda: (tmp_path / "children").exists())
    time.sleep(1)
    listener.feed(SILENCE)
    assert listener.until(20, event="hook_failed")["reason"] == "exit code 3"
    eventually(lambda: not alive(int((tmp_path / "children").read_text())))
    hook.unlink()
    listener.feed(LOUD, SILENCE)
    listener.until(20, keyword="loud")
    time.sleep(1.1)
    listener.feed(SILENCE)
    assert "No such file" in listener.until(20, event="hook_failed")["reason"]
    assert listener.end()["events"] == {"hook_failed": 2}


def test_no_thread_for_a_command_is_counted(fed, tmp_path):
    listener = fed("--exec", "true", "--dashboard", "0")
    listener.until(20, event="dashboard")
    listener.feed(SILENCE)
    time.sleep(1)  # it has what memory it needs
    status = Path(f"/proc/{listener.process.pid}/status").read_text()
    used = int(status.split("VmSize:")[1].split()[0]) * 1024
    resource.prlimit(listener.process.pid, resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
    listener.feed(LOUD, SILENCE, SILENCE)
    listener.until(20, keyword="loud")
    assert "thread" in listener.until(20, event="hook_failed")["reason"]
    resource.prlimit(listener.process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    listener.feed(LOUD, SILENCE, SILENCE)
    listener.until(20, keyword="loud")
    assert listener.end()["events"] == {"dashboard": 1, "hook_failed": 1}


def test_the_end_of_the_audio_leaves_commands_and_clips_their_time(listen, bundle, loud, tmp_path):
    hook = script(tmp_path / "hook", f"sleep 1; touch {tmp_path}/done")
    process = listen(bundle, "--wav", loud, "--exec", str(hook), "--save-on-detect", tmp_path / "clips")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and len(without_over(out)) == 1 and not err
    assert (tmp_path / "done").exists() and len(clips(tmp_path / "clips")) == 1


def test_a_clip_holds_nothing_of_the_file_before(listen, bundle, loud, tmp_path):
    with wave.open(str(tmp_path / "before.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(SILENCE)
    process = listen(bundle, "--wav", tmp_path / "before.wav", loud, "--save-on-detect", tmp_path / "clips")
    assert len(without_over(process.communicate(timeout=60)[0])) == 1
    with wave.open(str(clips(tmp_path / "clips")[0])) as clip:
        assert clip.getnframes() == 7 * 1280  # `loud` alone, its last hop filled up


@pytest.mark.parametrize("command", ["no-such-program -x", "'unclosed", "/etc/passwd"])
def test_a_command_that_cannot_be_is_refused(listen, bundle, command):
    process = listen(bundle, "--stdin", "--exec", command, stdin=subprocess.PIPE)
    out, err = process.communicate(SILENCE, timeout=60)
    assert process.returncode == 2 and not out and err.startswith(b"listen: error: --exec ") and err.count(b"\n") == 1


def clips(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.wav"))


def test_a_bound_that_holds_no_clip_is_refused(tmp_path):
    with pytest.raises(OptionsError, match="holds no clip of 3 s: raise it"):
        Keeper(str(tmp_path), 3.0, 90_000, 1280, lambda *_, **__: None)


def test_clips_are_kept_and_the_oldest_go_first(fed, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "000007-20200101T000000-loud-0.50.wav").write_bytes(bytes(90_000))
    (folder / "000008-half.wav.part").write_bytes(bytes(10))
    (folder / "mine.wav").write_bytes(bytes(200_000))
    listener = fed("--save-on-detect", folder, "--save-seconds", "1.6", "--save-megabytes", "0.11")
    for number in (8, 9, 10):
        listener.feed(SILENCE, LOUD, SILENCE, SILENCE)
        listener.until(20, keyword="loud")
        eventually(lambda number=number: any(path.name.startswith(f"{number:06}-") for path in clips(folder)))
    assert [path.name[:6] for path in clips(folder) if path.name != "mine.wav"] == ["000009", "000010"]
    assert (folder / "mine.wav").exists() and not list(folder.glob("*.part"))
    with wave.open(str(clips(folder)[1])) as clip:
        assert clip.getparams()[:4] == (1, 2, 16000, 20 * 1280)
        sound = np.frombuffer(clip.readframes(clip.getnframes()), "<i2")
    assert abs(sound).max() == pytest.approx(16383, abs=2) and not sound[:8000].any()  # the loud part is at its end
    assert listener.end()["events"] == {}


def test_a_full_disk_is_counted_and_detection_goes_on(fed, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder],
                                      capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        (folder / "filler").write_bytes(bytes(52_000))
        listener = fed("--save-on-detect", folder / "clips")
        listener.feed(LOUD, SILENCE, SILENCE)
        listener.until(20, keyword="loud")
        time.sleep(1)
        listener.feed(SILENCE)
        assert "No space left" in listener.until(20, event="save_failed")["reason"]
        assert not list((folder / "clips").iterdir())
        (folder / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=1m", folder], check=True)
        listener.feed(LOUD, SILENCE, SILENCE)
        listener.until(20, keyword="loud")
        eventually(lambda: len(clips(folder / "clips")) == 1)
        assert listener.end()["events"] == {"save_failed": 1}
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_folder_that_cannot_be(listen, bundle, tmp_path):
    (tmp_path / "file").write_text("")
    process = listen(bundle, "--stdin", "--save-on-detect", tmp_path / "file", stdin=subprocess.PIPE)
    out, err = process.communicate(SILENCE, timeout=60)
    assert process.returncode == 2 and b"cannot be used (File exists)" in err


def test_detections_reach_a_broker_that_goes_and_comes(fed, broker, subscribe):
    pytest.importorskip("paho.mqtt.client")
    listener = fed("--mqtt", f"mqtt://127.0.0.1:{broker.port}/home/shelf")
    topic = "home/shelf/detected/loud"
    for turn in range(2):
        other = subscribe(broker.port)
        listener.feed(LOUD, SILENCE, SILENCE)
        found = listener.until(20, keyword="loud")
        eventually(lambda other=other: other.on(topic))
        assert other.on(topic)[0]["time_s"] == found["time_s"]
        if turn == 0:
            broker.stop()
            listener.feed(LOUD, SILENCE, SILENCE)
            waiting = listener.until(20, keyword="loud")
            broker.start()
            other = subscribe(broker.port)
            eventually(lambda other=other: other.on(topic))
            assert other.on(topic)[0]["time_s"] == waiting["time_s"]
    assert listener.end()["events"] == {"mqtt": 2}  # away, connected


def test_clipped_audio_is_counted_and_heard(fed):
    listener = fed()
    listener.feed((32767 * np.sign(np.sin(np.arange(16000)))).astype("<i2").tobytes(), SILENCE)
    listener.until(20, keyword="loud")
    assert listener.end()["clipped_hops"] > 0


# systemd


def test_systemd_hears_of_a_start_a_reload_and_an_end_and_is_fed_by_hops_alone(fed, tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(30)
        listener = fed(env=os.environ | {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"})
        assert systemd.recv(100) == b"READY=1"
        listener.feed(SILENCE)
        assert systemd.recv(100) == b"WATCHDOG=1"
        systemd.settimeout(1.5)  # no audio, no food
        with pytest.raises(TimeoutError):
            systemd.recv(100)
        systemd.settimeout(30)
        fed_times = 0
        for _ in range(10):
            listener.feed(SILENCE[:2560])
            time.sleep(0.15)
        systemd.setblocking(False)
        try:
            while systemd.recv(100) == b"WATCHDOG=1":
                fed_times += 1
        except BlockingIOError:
            pass
        assert 5 <= fed_times <= 11
        systemd.settimeout(30)
        listener.process.send_signal(signal.SIGHUP)
        listener.feed(SILENCE[:2560])
        assert systemd.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        systemd.settimeout(0.08)
        said = []
        while b"READY=1" not in said and len(said) < 100:
            listener.feed(SILENCE[:2560])
            with contextlib.suppress(TimeoutError):
                said.append(systemd.recv(100))
        assert set(said) <= {b"READY=1", b"WATCHDOG=1"} and b"READY=1" in said
        systemd.settimeout(30)
        listener.end()
        while (said := systemd.recv(100)) == b"WATCHDOG=1":
            pass
        assert said == b"STOPPING=1"


@pytest.fixture
def led(tmp_path) -> Path:
    """A folder as the kernel has one for each LED."""
    folder = tmp_path / "ACT"
    folder.mkdir()
    (folder / "trigger").write_text("none [mmc0] timer")
    (folder / "brightness").write_text("1")
    return folder


def test_led_is_lit_for_a_moment_and_given_back(fed, led):
    listener = fed("--led", str(led))
    eventually(lambda: (led / "trigger").read_text() == "none" and (led / "brightness").read_text() == "0")
    listener.feed(LOUD)
    listener.until(20, keyword="loud")
    eventually(lambda: (led / "brightness").read_text() == "255")
    eventually(lambda: (led / "brightness").read_text() == "0")
    assert listener.end()["events"] == {}
    assert (led / "trigger").read_text() == "mmc0"


def test_led_that_is_gone_is_counted(fed, led):
    listener = fed("--led", str(led))
    eventually(lambda: (led / "brightness").read_text() == "0")
    (led / "brightness").unlink()
    (led / "brightness").mkdir()
    listener.feed(LOUD, SILENCE, SILENCE)
    assert listener.until(20, event="led_failed")["reason"] == "Is a directory"
    assert listener.end()["events"]["led_failed"] >= 1


def test_led_that_cannot_be_had_is_a_mistake_in_one_line(tmp_path):
    with pytest.raises(OptionsError, match="no such LED: there is"):
        Led("nowhere", print)
    (tmp_path / "trigger").mkdir()
    with pytest.raises(OptionsError, match="Is a directory: let the service have it"):
        Led(str(tmp_path), print)
