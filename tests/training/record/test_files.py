import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speech import RATE, room, takes_of, word

from training.data import recordings

ROOT = Path(__file__).resolve().parents[3]


def write(path: Path, audio: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate)


def record(folder: Path, *arguments: str, word: str = "Hey Juniper") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.record", word, *arguments]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )


@pytest.fixture
def phone(tmp_path) -> Path:
    """A folder as it comes from a telephone."""
    write(tmp_path / "phone" / "one.wav", np.repeat(takes_of(3), 3), 3 * RATE)
    write(tmp_path / "phone" / "Ben B" / "far.flac", np.concatenate([takes_of(1, peak=0.05), word(), room(1)]))
    write(tmp_path / "phone" / "hiss.wav", room(2, 0.05))
    write(tmp_path / "phone" / "talk" / "long.wav", np.concatenate(6 * [room(1), word(2), room(1)]))
    (tmp_path / "phone" / "broken.wav").write_bytes(b"RIFFnothing")
    return tmp_path


def test_takes_and_talk_from_files(phone):
    done = record(phone, "--from", "phone", "--speaker", "ann")
    assert done.returncode == 0, done.stderr
    clips = recordings.clips_of(phone / "recordings", words=True)
    names = [clip.path.name.split("_nohash_")[0] for clip in clips]
    assert {clip.word for clip in clips} == {"hey_juniper"} and sorted(names) == ["ann"] * 3 + ["ben-b"] * 2
    assert all(0.8 * RATE < len(clip.read()) < 1.6 * RATE for clip in clips)
    talk = recordings.find(phone / "recordings", ["_talk_/hey_juniper"])
    assert [clip.path.name.split("_nohash_")[0] for clip in talk] == ["ann"] * 3
    assert "5 takes, speakers: 2; talk: 30 s" in done.stdout
    for why in ("hiss.wav: 0.0 s: left out: silent", "broken.wav"):
        assert why in done.stdout + done.stderr


def test_the_same_files_again_change_nothing(phone):
    record(phone, "--from", "phone")
    before = {path: path.stat().st_mtime_ns for path in (phone / "recordings").rglob("*")}
    record(phone, "--from", "phone")
    assert {path: path.stat().st_mtime_ns for path in (phone / "recordings").rglob("*")} == before


@pytest.mark.parametrize(
    "arguments, word, why",
    [
        (["--from", "nowhere"], "juniper", "nowhere: has no recordings"),
        (["--from", "phone"], "juniper", "has a take of 'juniper' that can be used"),
        (["--from", "phone"], " ", "is no word to record"),
        (["--from", "phone"], "../up", "is no word to record"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, word, why):
    write(tmp_path / "phone" / "hiss.wav", room(2, 0.05))
    done = record(tmp_path, *arguments, word=word)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("record: error: ") and why in last and "Traceback" not in done.stderr


def test_a_full_disk_leaves_nothing_half_written(phone, monkeypatch):
    def full(self: Path, content: bytes) -> int:
        with open(self, "wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        recordings.write(phone / "take.wav", word())
    assert not list(phone.glob("take*"))
