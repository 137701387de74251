import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from training.data import recordings
from training.data.recordings import SAMPLE_RATE, DataError
from training.voices import clips, engines, voice
from training.voices.clips import Job, Made
from training.voices.voice import Manner, Speaker


def tone(text: str, speaker: Speaker, manner: Manner) -> tuple[np.ndarray, int]:
    """Silence, half a second of a tone, silence."""
    time = np.arange(int(0.5 * 8000 / manner.rate)) / 8000
    said = 0.4 * np.sin(2 * np.pi * 200 * manner.pitch * time)
    return np.concatenate([np.zeros(4000), said, np.zeros(4000)]).astype(np.float32), 8000


@pytest.fixture
def fake(monkeypatch):
    """Engines in the place of the real ones, by what they do when they speak."""

    def use(**speaks) -> None:
        made = {}
        for name, speak in speaks.items():
            people = [Speaker(name, f"{name}{i}", f"{name} {i}") for i in range(10)]
            known = SimpleNamespace(NAME=name, INSTALL="", missing=lambda: False, speak=speak)
            known.speakers = lambda language, folder, people=people: people
            made[name] = known
        monkeypatch.setattr(engines, "ENGINES", made)

    use(tone=tone)
    return use


def contents(found: list[recordings.Clip]) -> dict[str, bytes]:
    return {clip.path.name: clip.path.read_bytes() for clip in found}


def test_a_word_by_the_voices_that_are_here(tmp_path):
    found = clips.clips("hey juniper", 24, ["hey juniper", "hay juniper"], folder=tmp_path)
    assert len(found) == 24 and {clip.word for clip in found} == {"hey_juniper"}
    people = {
        split: {c.path.name.split("_nohash_")[0] for c in found if c.split == split} for split in recordings.SPLITS
    }
    assert not people["training"] & people["validation"] and not people["testing"]
    assert 3 <= sum(clip.split == "validation" for clip in found) <= 5
    seconds = [len(clip.read()) / SAMPLE_RATE for clip in found]
    assert all(0.4 < one < 2.5 for one in seconds) and len({len(clip.read()) for clip in found}) > 12


def test_silence_is_trimmed_and_the_warp_undone(fake, tmp_path):
    for clip in clips.clips("juniper", 12, folder=tmp_path):
        audio = recordings.to_float(clip.read())
        start, end = recordings.spoken_part(audio)
        assert start == pytest.approx(clips.MARGIN, abs=700) and len(audio) - end == pytest.approx(
            clips.MARGIN, abs=700
        )
        rate = clips.draw(clips.number(clip.path), Path(), ("juniper",), groups()[0]).manner.rate
        assert (end - start) / SAMPLE_RATE * rate == pytest.approx(0.5, abs=0.06)
        assert np.abs(audio).max() == pytest.approx(clips.PEAK, abs=0.01)


def groups() -> list[list[tuple[float, list[Speaker]]]]:
    """For training, for validation."""
    return [clips.by_engine(some) for some in engines.split(engines.known("en"))]


def test_a_warp_moves_what_is_heard_but_neither_rate_nor_pitch(fake):
    """The tone's pitch is the manner's whatever the warp, since the voice was asked for a lower one."""
    for warp in (0.88, 1.14):
        job = Job(Path("/nowhere"), "x", engines.known("en")[0], Manner(pitch=1.2), warp)
        asked = Manner(job.manner.rate / warp, job.manner.pitch / warp)
        said, rate = tone("x", job.speaker, asked)
        heard = np.abs(np.fft.rfft(said, 8 * SAMPLE_RATE))
        assert np.argmax(heard) / 8 * rate / SAMPLE_RATE * warp == pytest.approx(240, rel=0.02)


def test_a_second_run_changes_nothing_and_a_stopped_one_goes_on(fake, tmp_path):
    found = clips.clips("juniper", 20, folder=tmp_path)
    whole, times = contents(found), {clip.path: clip.path.stat().st_mtime_ns for clip in found}
    assert contents(clips.clips("juniper", 20, folder=tmp_path)) == whole
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for clip in found[::3]:  # as if it had been stopped before the first batch was whole
        clip.path.unlink()
    next(tmp_path.glob("*/tried.json")).unlink()
    assert contents(clips.clips("juniper", 20, folder=tmp_path)) == whole


def test_clips_of_a_batch_that_was_stopped_are_judged(fake, tmp_path):
    clips.clips("juniper", 10, folder=tmp_path)
    (place,) = tmp_path.iterdir()
    for i in (13, 17):  # of a batch that was not finished; far too long
        path = clips.draw(i, place / "juniper", ("juniper",), groups()[i % 6 == 5]).path
        recordings.write(path, 0.1 * np.random.default_rng(i).standard_normal(3 * SAMPLE_RATE))
    assert all(len(clip.read()) < SAMPLE_RATE for clip in clips.clips("juniper", 14, folder=tmp_path))


def test_clips_do_not_depend_on_the_number_of_processes(fake, tmp_path, monkeypatch):
    some = contents(clips.clips("juniper", 15, folder=tmp_path / "two"))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert contents(clips.clips("juniper", 15, folder=tmp_path / "one")) == some


def test_more_clips_keep_those_that_are_there(fake, tmp_path):
    few = contents(clips.clips("juniper", 10, folder=tmp_path))
    assert few.items() <= contents(clips.clips("juniper", 25, folder=tmp_path)).items()


def test_other_words_and_other_voices_are_other_clips(fake, tmp_path):
    clips.clips("juniper", 6, folder=tmp_path)
    clips.clips("juniper", 6, ["yuniper"], folder=tmp_path)
    fake(tone=tone, other=tone)
    clips.clips("juniper", 6, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_an_engine_that_fails_or_is_silent_is_left_out(fake, tmp_path, capsys):
    def fails(*_):
        raise OSError("no such voice")

    fake(tone=tone, fails=fails, mute=lambda *_: (np.zeros(8000, np.float32), 8000))
    found = clips.clips("juniper", 12, folder=tmp_path)
    assert len(found) == 12 and {clip.path.name[:4] for clip in found} == {"tone"}
    told = capsys.readouterr().out
    assert "fails: no such voice" in told and "mute said nothing" in told


def test_an_engine_that_crashes_takes_no_other_with_it(fake, tmp_path, capsys):
    fake(tone=tone, crash=lambda *_: os._exit(11))
    assert len(clips.clips("juniper", 6, folder=tmp_path)) == 6
    assert "crash crashed" in capsys.readouterr().out


def test_no_good_clip_at_all_is_an_error(fake, tmp_path):
    fake(mute=lambda *_: (np.zeros(8000, np.float32), 8000))
    with pytest.raises(DataError, match="juniper: only 0 of [0-9]+ clips are good .* mute said nothing"):
        clips.clips("juniper", 6, folder=tmp_path)


def test_outliers_are_left_out():
    job = Job(Path("x"), "x", Speaker("e", "v", "p"), Manner(), 1.0)
    lengths = [0.5, 0.6, 0.7, 0.55, 1.5, 0.2]
    judged = clips.without_outliers([Made(job, length, "") for length in lengths])
    assert [one.fault for one in judged] == ["", "", "", "", "e too long", "e too short"]


def test_a_full_disk_is_one_line(fake, tmp_path, monkeypatch):
    def full(path: Path, audio: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recordings, "write", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\); make room there"):
        clips.clips("juniper", 6, folder=tmp_path)


def test_an_example_by_each_engine(fake, tmp_path):
    fake(tone=tone, other=tone)
    paths = clips.examples("hey juniper", "en", None, tmp_path / "heard")
    assert [path.name for path in paths] == ["hey_juniper-tone.wav", "hey_juniper-other.wav"]
    assert all(path.stat().st_size > 8000 for path in paths)


def test_an_engine_with_many_people_is_heard_more_often_but_not_alone():
    some = [Speaker("piper", f"{i}", f"p{i}") for i in range(100)] + [Speaker("flite", "slt", "slt")]
    assert [weight for weight, _ in clips.by_engine(some)] == [10, 1]
    variants = [Speaker("espeak-ng", f"{i}", f"e{i}") for i in range(100)]
    assert clips.by_engine(variants)[0][0] == pytest.approx(6**0.5)


def test_what_a_process_keeps_is_not_its_childs(tmp_path):
    made = voice.OneAProcess(lambda: object())
    mine = made()
    assert made() is mine
    child = os.fork()
    if not child:
        os._exit(made() is mine)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
