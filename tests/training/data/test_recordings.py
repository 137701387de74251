from pathlib import Path

import numpy as np
import pytest
import soundfile

from training.data import recordings as data


def write(path: Path, seconds: float = 1, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.sin(np.arange(int(seconds * rate)) / 10) * 0.5, rate)


def test_lists_decide_where_they_are(tmp_path):
    for name in ("happy/a_nohash_0.wav", "happy/b_nohash_0.flac", "bed/c_nohash_0.wav", "_silence_/d.wav"):
        write(tmp_path / name)
    (tmp_path / "validation_list.txt").write_text("happy/b_nohash_0.flac\n")
    (tmp_path / "testing_list.txt").write_text("bed/c_nohash_0.wav\n")
    found = {(c.word, c.split) for c in data.clips_of(tmp_path, words=True)}
    assert found == {("happy", "training"), ("happy", "validation"), ("bed", "testing")}


def test_speakers_are_never_in_two_splits(tmp_path):
    for speaker in range(40):
        for word in ("happy", "bed"):
            write(tmp_path / word / f"{speaker:08x}_nohash_{speaker % 3}.wav", 0.05)
    splits: dict[str, set[str]] = {}
    for clip in data.clips_of(tmp_path, words=True):
        splits.setdefault(clip.path.name.split("_")[0], set()).add(clip.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {"training", "validation", "testing"} == set.union(*splits.values())


def test_the_hash_is_speech_commands_own(recordings):
    """Speech Commands' validation list was made by this hash. (These recordings' lists move some test speakers.)"""
    clips = data.clips_of(recordings / "speech_commands", words=True)
    by_hash = [c.split for c in clips if data.speaker_split(c.path.name) == "validation"]
    assert len(by_hash) > 500 and set(by_hash) == {"validation"}


def test_speech_without_lists_is_for_training_and_validation_only(tmp_path):
    for number in range(60):
        write(tmp_path / "any" / "depth" / f"{number}.wav", 0.05)
    splits = [c.split for c in data.clips_of(tmp_path, words=False)]
    assert set(splits) == {"training", "validation"} and 1 <= splits.count("validation") <= 20


def test_any_rate_and_channel_count_become_16_khz_mono(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros((44_100, 2)), 44_100)
    assert data.read(tmp_path / "x.wav").shape == (16_000,)


def test_broken_file_is_named(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"RIFFjunk")
    with pytest.raises(data.DataError, match=r"x\.wav"):
        data.read(tmp_path / "x.wav")


def test_missing_folder_is_one_line_with_the_fix(monkeypatch, tmp_path):
    monkeypatch.delenv("EARSHOT_DATA", raising=False)
    with pytest.raises(data.DataError, match="EARSHOT_DATA"):
        data.root()
    with pytest.raises(data.DataError, match="no such folder"):
        data.root(str(tmp_path / "none"))


def test_spoken_part_is_where_the_sound_is():
    audio = np.zeros(16_000, np.float32)
    audio[4800:9600] = 0.5
    audio += np.random.default_rng(0).normal(0, 1e-3, 16_000).astype(np.float32)
    assert data.spoken_part(audio) == (4800, 9600)
    assert data.spoken_part(np.zeros(100, np.float32)) == (0, 100)
