"""listen.py from outside, as a process."""

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from lines import without_over

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
SILENCE, LOUD = np.zeros(16000), 0.5 * np.sin(np.arange(16000))
TRACK = np.concatenate([SILENCE, LOUD, SILENCE, SILENCE, LOUD])  # loud from 1 s to 2 s, and from 4 s to 5 s


def pcm(samples: np.ndarray) -> bytes:
    return np.round(samples * 32767).astype("<i2").tobytes()


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(pcm(np.repeat(samples, channels)))
    return path


def finished(process: subprocess.Popen, data: bytes | None = None, code: int = 0) -> tuple[list[dict], str]:
    """Detections and stderr of a run that ends with that code, and never with a traceback."""
    out, err = process.communicate(data, timeout=30)
    assert process.returncode == code, err.decode()
    assert b"Traceback" not in err and b"Exception" not in err
    return without_over(out), err.decode()


def one_error(process: subprocess.Popen, data: bytes | None = None) -> str:
    detections, err = finished(process, data, code=2)
    assert not detections
    assert len(err.splitlines()) == 1 and err.startswith("listen: error: ")
    return err


def test_detections_of_a_file(listen, bundle, tmp_path):
    detections, err = finished(listen(bundle, "--wav", write_wav(tmp_path / "a.wav", TRACK)))
    assert [list(d) for d in detections] == [["time_s", "keyword", "score"]] * 2
    assert [d["keyword"] for d in detections] == ["loud"] * 2
    for detection, start in zip(detections, (1, 4), strict=True):
        assert start < detection["time_s"] <= start + 0.24
        assert detection["time_s"] / 0.08 == pytest.approx(round(detection["time_s"] / 0.08))
        assert 0.5 <= detection["score"] <= 1
    assert not err


def test_every_file_starts_from_reset(listen, bundle, tmp_path):
    a, b = write_wav(tmp_path / "a.wav", TRACK[:32000]), write_wav(tmp_path / "b.wav", LOUD)
    alone, _ = finished(listen(bundle, "--wav", b))
    both, _ = finished(listen(bundle, "--wav", a, b, a))
    assert [d["file"] for d in both] == [str(a), str(b), str(a)]
    assert {k: v for k, v in both[1].items() if k != "file"} == alone[0]
    assert both[0] == both[2]


def test_a_word_at_the_end_of_a_file_is_heard_out(listen, make_bundle, graph, tmp_path):
    over = "now = Mul(energy, gain)\nover = Sub(logit, now)\nscore = Sigmoid(over)"
    bundle = make_bundle(graph=graph.replace("score = Sigmoid(logit)", over))  # it rises when what was loud is over
    detections, _ = finished(listen(bundle, "--wav", write_wav(tmp_path / "a.wav", np.concatenate([SILENCE, LOUD]))))
    assert [line["time_s"] for line in detections] == [pytest.approx(2.08)]


def test_a_file_of_another_rate_and_channel_count(listen, bundle, tmp_path):
    time_44 = np.arange(0, 5, 1 / 44100)
    samples = np.where((time_44 % 3 >= 1) & (time_44 % 3 < 2), 0.5 * np.sin(time_44 * 16000), 0)
    detections, _ = finished(listen(bundle, "--wav", write_wav(tmp_path / "a.wav", samples, 44100, 2)))
    assert [round(d["time_s"]) for d in detections] == [1, 4]


def test_stdin_gives_what_the_file_gives(listen, bundle, tmp_path):
    from_file, _ = finished(listen(bundle, "--wav", write_wav(tmp_path / "a.wav", TRACK)))
    from_stdin, _ = finished(listen(bundle, "--stdin", stdin=subprocess.PIPE), pcm(TRACK))
    assert from_stdin == from_file


def test_a_detection_is_told_while_the_stream_goes_on(listen, bundle):
    process = listen(bundle, "--stdin", stdin=subprocess.PIPE)
    process.stdin.write(pcm(LOUD[:4000]))
    process.stdin.flush()
    assert select.select([process.stdout], [], [], 20)[0]
    assert json.loads(process.stdout.readline())["keyword"] == "loud"
    assert process.poll() is None


def test_as_a_module(bundle, tmp_path):
    path = write_wav(tmp_path / "a.wav", TRACK)
    run = subprocess.run([sys.executable, "-m", "runtime.listen", bundle, "--wav", path], cwd=ROOT, capture_output=True)
    assert run.returncode == 0 and len(without_over(run.stdout)) == 2


def test_the_folder_alone_is_enough(listen, bundle, tmp_path):
    shutil.copytree(ROOT / "runtime", tmp_path / "device" / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    path = write_wav(tmp_path / "a.wav", TRACK)
    process = listen(bundle, "--wav", path, script=tmp_path / "device" / "runtime" / "listen.py")
    assert len(finished(process)[0]) == 2


@pytest.mark.parametrize("model", ["float", "int8", "model.onnx"])
def test_a_model_of_the_bundle(listen, bundle, tmp_path, model):
    assert len(finished(listen(bundle, "--model", model, "--wav", write_wav(tmp_path / "a.wav", TRACK)))[0]) == 2


def test_a_threshold_of_ones_own(listen, bundle, tmp_path):
    path = write_wav(tmp_path / "a.wav", 0.6 * TRACK)
    assert finished(listen(bundle, "--threshold", "0.999", "--wav", path))[0] == []


def test_the_meter_leaves_stdout_alone(listen, bundle, tmp_path):
    detections, err = finished(listen(bundle, "--meter", "--wav", write_wav(tmp_path / "a.wav", TRACK)))
    assert len(detections) == 2
    assert len(err.splitlines()) == 5  # one a second where stderr is no terminal
    assert err.splitlines()[0] == f"[{'':30}]  -60 dB  loud 0.01"
    assert "dB  loud 1.00" in err.splitlines()[1] and "#" in err.splitlines()[1]


def test_the_meter_moves_on_a_terminal(listen, bundle, tmp_path):
    master, slave = pty.openpty()
    process = listen(bundle, "--meter", "--wav", write_wav(tmp_path / "a.wav", TRACK), stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 4096):
            shown += data
    except OSError:  # Linux says EIO when the other side has closed
        pass
    os.close(master)
    assert len(without_over(process.communicate(timeout=30)[0])) == 2
    assert shown.count(b"\r[") == 63 + 7 and b"\n" not in shown and shown.endswith(b"\r\x1b[K")


def test_help_teaches(listen):
    out, err = listen("--help").communicate(timeout=30)
    assert b"arecord -q -r 16000 -f S16_LE -c 1 -t raw | " in out and b'"time_s"' in out and not err


# Ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(listen, bundle, number):
    process = listen(bundle, "--stdin", stdin=subprocess.PIPE)
    process.stdin.write(pcm(LOUD))
    process.stdin.flush()
    process.stdout.readline()  # it listens
    process.send_signal(number)
    process.wait(timeout=10)
    assert process.returncode == 0
    assert process.stderr.read() == b""


def test_a_signal_ends_it_though_nobody_reads_its_lines(listen, bundle):
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    process = listen(bundle, "--stdin", stdin=subprocess.PIPE, stdout=writer)
    os.set_blocking(process.stdin.fileno(), False)
    taken = time.monotonic()
    while time.monotonic() - taken < 3:  # it has started, and takes no more audio: it waits for us
        try:
            os.write(process.stdin.fileno(), pcm(TRACK))
            taken = time.monotonic()
        except BlockingIOError:
            time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    os.close(reader)
    os.close(writer)


def test_a_reader_that_goes_ends_it_cleanly(listen, bundle):
    process = listen(bundle, "--stdin", stdin=subprocess.PIPE)
    process.stdin.write(pcm(TRACK))
    process.stdin.flush()
    process.stdout.readline()
    process.stdout.close()
    try:
        for _ in range(20):
            process.stdin.write(pcm(TRACK))
            process.stdin.flush()
            time.sleep(0.02)
    except BrokenPipeError:
        pass
    assert process.wait(timeout=10) == 0
    assert process.stderr.read() == b""


def test_a_full_disk_is_told(listen, bundle, tmp_path):
    with open("/dev/full", "wb") as full:
        process = listen(bundle, "--wav", write_wav(tmp_path / "a.wav", TRACK), stdout=full)
        err = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 1
    assert err.startswith("listen: error: detections cannot be written (No space left on device): ")
    assert len(err.splitlines()) == 1


def test_audio_that_is_no_number_is_told(listen, bundle, tmp_path):
    samples = np.concatenate([LOUD, np.full(1280, np.nan), LOUD]).astype("<f4").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 0, b"WAVE", b"fmt ", 16, 3, 1, 16000, 64000, 4, 32)
    head += struct.pack("<4sI", b"data", len(samples))
    (tmp_path / "a.wav").write_bytes(head + samples)
    detections, err = finished(listen(bundle, "--wav", tmp_path / "a.wav"))
    assert len(detections) == 1 and err.startswith("listen: warning: ") and "1280 samples are NaN" in err


def test_a_truncated_file_is_told(listen, bundle, tmp_path):
    path = write_wav(tmp_path / "a.wav", TRACK)
    os.truncate(path, 60_001)
    detections, err = finished(listen(bundle, "--wav", path))
    assert len(detections) == 1
    assert all(line.startswith("listen: warning: ") for line in err.splitlines())


# A user's mistakes: one line, exit code 2


@pytest.mark.parametrize(("arguments", "problem"), [
    ([], "BUNDLE is missing"), (["x", "--wav"], "expected at least one argument"), (["x", "--colour"], "unrecognized"),
    (["x", "--stdin", "--wav", "y"], "not allowed with"), (["x", "--threshold", "0"], "--threshold must be in 0.001"),
    (["x", "--threshold", "nan"], "--threshold must be"), (["x", "--threshold", "high"], "invalid float"),
    (["nowhere", "--stdin"], "nowhere/manifest.json: cannot be read (No such file or directory)"),
])
def test_a_mistyped_command(listen, arguments, problem):
    assert problem in one_error(listen(*arguments))


def test_a_bad_bundle(listen, bundle):
    with open(bundle / "model.int8.onnx", "ab") as file:
        file.write(b"\0")
    assert "model.int8.onnx: " in one_error(listen(bundle, "--stdin"))
    (bundle / "manifest.json").write_text((bundle / "manifest.json").read_text()[:100])
    assert "manifest.json: not JSON" in one_error(listen(bundle, "--stdin"))


def test_a_bundle_that_onnxruntime_cannot_load(listen, make_bundle, graph):
    bundle = make_bundle(graph=graph.replace("Sigmoid(logit)", "evil.Sigmoid(logit)"))
    assert "model.int8.onnx: needs custom operators" in one_error(listen(bundle, "--stdin"))


@pytest.mark.parametrize("content", [b"", b"no WAV file at all", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(24)])
def test_a_bad_file(listen, bundle, tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    assert "a.wav: " in one_error(listen(bundle, "--wav", tmp_path / "a.wav"))
    assert "No such file" in one_error(listen(bundle, "--wav", tmp_path / "b.wav"))


def test_bad_stdin(listen, bundle):
    assert "ended before any audio" in one_error(listen(bundle, "--stdin"))
    wav = (FIXTURES / "noise_pink.wav").read_bytes()
    assert "is a WAV file" in one_error(listen(bundle, "--stdin", stdin=subprocess.PIPE), wav)


def test_a_terminal_for_stdin(listen, bundle):
    master, slave = pty.openpty()
    assert "is a terminal" in one_error(listen(bundle, "--stdin", stdin=slave))
    os.close(master)
    os.close(slave)


def test_the_repositorys_own_audio_is_small_and_16_khz():
    files = sorted(FIXTURES.glob("*.wav"))
    assert len(files) >= 6 and sum(file.stat().st_size for file in files) < 300 * 1024
    for file in files:
        with wave.open(str(file)) as clip:
            assert (clip.getframerate(), clip.getnchannels(), clip.getsampwidth()) == (16000, 1, 2)


def test_onnxruntime_tells_nobody_of_us(listen, bundle, tmp_path):
    """Its telemetry would keep a number of this device below HOME."""
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | {"HOME": str(home), "XDG_CACHE_HOME": ""}
    finished(listen(bundle, "--stdin", stdin=subprocess.PIPE, env=environment), bytes(32000))
    assert not list(home.iterdir())
