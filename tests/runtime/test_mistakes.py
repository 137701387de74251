"""What a person at a terminal sees, and the mistakes that people make: each is made, and its answer read."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lines import without_over

from runtime import listen as command
from runtime.bundle import shipped

ROOT = Path(__file__).resolve().parents[2]
SILENCE, LOUD = np.zeros(16000), 0.5 * np.sin(np.arange(16000))
TRACK = np.concatenate([SILENCE, LOUD, SILENCE])


@pytest.fixture
def track(tmp_path):
    soundfile.write(tmp_path / "track.wav", TRACK, 16000)
    return tmp_path / "track.wav"


def on_terminal(listen, *arguments, **options) -> tuple[subprocess.Popen, str]:
    """A run whose standard output is a terminal, and what is shown there."""
    master, slave = pty.openpty()
    process = listen(*arguments, stdout=slave, **options)
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 4096):
            shown += data
    except OSError:  # Linux says EIO when the other side has closed
        pass
    os.close(master)
    process.wait(timeout=30)
    return process, shown.decode()


def test_lines_are_text_on_a_terminal_and_json_elsewhere(listen, bundle, track):
    _, shown = on_terminal(listen, bundle, "--wav", track)
    begun, over = shown.splitlines()
    assert begun.split()[1:4] == ["s", "loud:", "score"] and over.split()[2:5] == ["loud:", "over,", "highest"]
    _, shown = on_terminal(listen, bundle, "--wav", track, "--json")
    assert [json.loads(line).get("event") for line in shown.splitlines()] == [None, "over"]
    out, _ = listen(bundle, "--wav", track).communicate(timeout=30)
    detection, over = map(json.loads, out.splitlines())
    assert over["event"] == "over" and over["time_s"] > detection["time_s"]
    assert over["detection"] == {**detection, "peak": over["detection"]["peak"]}
    assert over["detection"]["peak"] > detection["score"]


def test_a_person_is_told_what_goes_on_and_how_to_end_it(listen, bundle):
    master, slave = pty.openpty()
    process = listen(bundle, "--stdin", stdin=subprocess.PIPE, stderr=slave)
    process.communicate(bytes(32000), timeout=30)
    shown = os.read(master, 4096).decode()
    os.close(slave)
    os.close(master)
    assert shown.strip() == 'listen: standard input, with bundle: say "loud"; Ctrl-C ends'


def test_it_goes_on_after_a_bad_file(listen, bundle, track, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no WAV file at all")
    process = listen(bundle, "--wav", tmp_path / "bad.wav", track, tmp_path / "none.wav", track)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert [line["file"] for line in without_over(out)] == [str(track)] * 2
    bad, none = err.decode().splitlines()
    assert bad.startswith(f"listen: error: {tmp_path}/bad.wav: is not a WAV file")
    assert "none.wav: cannot be read" in none


@pytest.mark.parametrize("kind", ["flac", "ogg"])
def test_what_soundfile_reads(listen, bundle, tmp_path, kind):
    soundfile.write(tmp_path / f"a.{kind}", np.column_stack([np.repeat(TRACK, 2)] * 2), 32000)
    out, err = listen(bundle, "--wav", tmp_path / f"a.{kind}").communicate(timeout=30)
    (detection,) = without_over(out)
    assert 1 < detection["time_s"] < 1.4 and not err


def test_without_soundfile_it_says_what_to_do(bundle, tmp_path):
    soundfile.write(tmp_path / "a.flac", TRACK, 16000)
    bare = "import runpy, sys; sys.modules['soundfile'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    run = subprocess.run([sys.executable, "-c", bare, ROOT / "runtime" / "listen.py", bundle, "--wav",
                          tmp_path / "a.flac"], capture_output=True, text=True)
    assert run.returncode == 2 and "pip install soundfile reads FLAC" in run.stderr and run.stderr.count("\n") == 1


def test_a_quiet_room_is_heard_before_a_file(listen, make_bundle, graph, tmp_path):
    """By a model whose score is high when anything at all was heard before the hop."""
    before = graph.replace("score = Sigmoid(logit)", "heard = Mul(level, much)\nless = Sub(heard, offset)\n"
                           "score = Sigmoid(less)").replace("float[1] gain", "float[1] much = {1e7}, float[1] gain")
    bundle = make_bundle(graph=before)
    soundfile.write(tmp_path / "a.wav", 0.1 * LOUD, 16000)
    out, _ = listen(bundle, "--wav", tmp_path / "a.wav").communicate(timeout=30)
    assert [line["time_s"] for line in without_over(out)] == [0.08]
    process = listen(bundle, "--stdin", stdin=subprocess.PIPE)
    out, _ = process.communicate((0.1 * LOUD * 32767).astype("<i2").tobytes(), timeout=30)
    assert [line["time_s"] for line in without_over(out)] == [0.16]


def refused(listen, *arguments) -> str:
    process = listen(*arguments)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 2 and not out and err.count(b"\n") == 1
    return err.decode()


def test_a_wrong_bundle_lists_those_there_are(monkeypatch, make_bundle, tmp_path, capsys):
    make_bundle()
    monkeypatch.setattr(shipped, "folder", lambda: str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        command.main(["nowhere", "--stdin"])
    assert stopped.value.code == 2 and "there are bundle; or name a folder" in capsys.readouterr().err
    assert shipped.find("loud") == shipped.find("bundle") == str(tmp_path / "bundle")


def test_a_checkpoint_is_no_bundle(listen):
    for path in (ROOT / "models" / "happy-tiny", ROOT / "models" / "happy-tiny" / "model.safetensors"):
        said = refused(listen, path, "--stdin")
        assert f"{path}: this is a checkpoint: python -m export {path} --out dist makes a bundle of it" in said


@pytest.mark.parametrize(("typed", "meant"), [
    ("--treshold", "--threshold"), ("--save_on_detect", "--save-on-detect"),
    ("--dashbord=8765", "--dashboard"),
])
def test_a_mistyped_option_names_the_nearest(listen, typed, meant):
    said = refused(listen, "x", typed)
    assert f"unrecognized arguments: {typed}: did you mean '{meant}'?: see --help" in said


def test_no_microphone(monkeypatch, capsys):
    monkeypatch.setattr("runtime.audio.hops.list_devices", lambda: [])
    with pytest.raises(SystemExit) as stopped:
        command.main(["--list-devices"])
    assert stopped.value.code == 2 and "there is no microphone: plug one in" in capsys.readouterr().err


def test_what_a_command_says_goes_to_the_log(listen, bundle, track):
    out, err = listen(bundle, "--wav", track, "--exec", "echo lamp on").communicate(timeout=30)
    assert err == b"lamp on\n" and len(without_over(out)) == 1
