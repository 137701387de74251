import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from speech import RATE, room, takes_of, word

from training.data.recordings import DataError
from training.record import guide, places


class Room:
    """A microphone that hears some audio once, whoever listens, and then only the room."""

    def __init__(self, *audio: np.ndarray) -> None:
        self.audio = np.concatenate(audio)

    def listen(self) -> Iterator[np.ndarray]:
        for _ in range(2000):
            block, self.audio = self.audio[:1280], self.audio[1280:]
            yield block if len(block) == 1280 else room(0.08)


@pytest.fixture
def answers(monkeypatch):
    def give(text: str = "") -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    give()
    return give


def numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem.rpartition("_")[2]) for path in folder.glob("*.wav"))


def test_the_plan_has_every_part():
    parts = guide.plan(20)
    assert [(part.name, len(some)) for part, some in parts] == [("near", 7), ("far", 5), ("quiet", 4), ("quick", 4)]
    for n in (0, 1, 4, 7, 100):
        assert sum(len(some) for _, some in guide.plan(n)) == n


def test_takes_are_counted_and_bad_ones_said_again(tmp_path, answers, capsys):
    clipped = np.concatenate([room(1), np.clip(word(peak=3), -1, 1), room(1)])
    guide.record(Room(takes_of(2), clipped, takes_of(4)).listen, "juniper", "Ann", 4, tmp_path)
    assert numbers(tmp_path / "juniper") == [0, 1, 2, 3]
    assert "left out, clipped" in capsys.readouterr().out


def test_a_second_run_records_what_is_missing(tmp_path, answers, capsys):
    guide.record(Room(takes_of(10)).listen, "juniper", "ann", 4, tmp_path)
    (tmp_path / "juniper" / "ann_nohash_2.wav").unlink()
    kept = (tmp_path / "juniper" / "ann_nohash_1.wav").stat().st_mtime_ns
    capsys.readouterr()
    guide.record(Room(takes_of(10)).listen, "juniper", "ann", 4, tmp_path)
    assert numbers(tmp_path / "juniper") == [0, 1, 2, 3]
    assert (tmp_path / "juniper" / "ann_nohash_1.wav").stat().st_mtime_ns == kept
    assert capsys.readouterr().out.count("Say 'juniper'") == 1


def test_a_silent_part_is_left_after_a_while(tmp_path, answers, capsys):
    guide.record(Room(room(1)).listen, "juniper", "ann", 1, tmp_path)
    assert not numbers(tmp_path / "juniper")
    assert capsys.readouterr().out.count("heard nothing for 12 s") == guide.MOST_SILENT


def test_talk_is_kept_in_pieces_and_silence_is_not(tmp_path, answers, capsys):
    talk = np.concatenate(5 * [room(1), word(3)])
    guide.record_talk(Room(room(10), talk).listen, "hey juniper", "ann", 15, tmp_path)
    pieces = list((tmp_path / "_talk_" / "hey_juniper").glob("ann_nohash_*.wav"))
    assert numbers(pieces[0].parent) == [0, 1]
    assert "left out, silent" in capsys.readouterr().out
    assert all(path.stat().st_size == 44 + 2 * 10 * RATE for path in pieces)


def test_q_stops(tmp_path, answers):
    answers("q\n")
    with pytest.raises(guide.Stopped):
        guide.record(Room(takes_of(4)).listen, "juniper", "ann", 4, tmp_path)


def test_a_microphone_that_ends_is_an_error(tmp_path, answers):
    with pytest.raises(DataError, match="has ended"):
        guide.record(lambda: iter([room(0.5)]), "juniper", "ann", 4, tmp_path)


def test_names_of_speakers_are_parts_of_file_names():
    assert places.path(Path("r"), "hey juniper", "Ann_B. /x", 3) == Path("r/hey_juniper/ann-b-x_nohash_3.wav")
    assert places.slug("…") == "me"
