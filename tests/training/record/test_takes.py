import numpy as np
import pytest
from speech import RATE, room, takes_of, word

from training.record import takes


def heard(audio: np.ndarray, block: int = 1280, quiet: float | None = None) -> list[takes.Take]:
    blocks = [audio[i : i + block] for i in range(0, len(audio), block)]
    return [take for take in takes.takes(blocks, quiet) if take]


def test_each_word_is_a_take_with_a_little_room_around_it():
    found = heard(takes_of(3))
    assert [take.fault for take in found] == ["", "", ""]
    for i, take in enumerate(found):
        assert take.start == pytest.approx(1 + 1.6 * i - takes.MARGIN / takes.A_SECOND, abs=0.1)
        assert take.seconds == pytest.approx(0.6, abs=0.1)
        assert len(take.audio) == pytest.approx(1.2 * RATE, abs=0.12 * RATE)


def test_takes_do_not_depend_on_the_length_of_blocks():
    audio = takes_of(2)
    some = [heard(audio, block) for block in (100, 1280, len(audio))]
    for other in some[1:]:
        assert [take.audio.tolist() for take in other] == [take.audio.tolist() for take in some[0]]


def test_a_quiet_word_in_a_quiet_room_is_heard():
    assert [take.fault for take in heard(np.concatenate([room(1, 1e-5), word(peak=0.02), room(1, 1e-5)]))] == [""]


def test_a_pause_within_a_phrase_does_not_end_it():
    phrase = np.concatenate([room(1), word(0.3), room(0.3), word(0.6), room(1)])
    assert [take.fault for take in heard(phrase)] == [""]


@pytest.mark.parametrize(
    "audio, why",
    [
        (np.concatenate([room(1), np.clip(word(peak=3), -1, 1), room(1)]), "clipped"),
        (np.concatenate([room(1), word(0.08), room(1)]), "too short"),
        (np.concatenate([room(1), word(6), room(1)]), "longer than 4 s"),
        (np.concatenate([room(1), word()]), "its end is cut off"),
    ],
)
def test_what_cannot_be_used_is_told(audio, why):
    assert heard(audio)[0].fault.startswith(why)


def test_speech_at_once_is_cut_off_at_its_beginning():
    audio = np.concatenate([word(), room(2)])
    assert heard(audio, quiet=takes.room(audio))[0].fault.startswith("its beginning is cut off")


def test_normalised_speech_is_not_clipped():
    audio = takes_of(1, peak=1.0)
    assert [take.fault for take in heard(audio / np.abs(audio).max())] == [""]


def test_nothing_is_said_in_noise():
    noise = room(5, 0.1)
    assert not heard(noise) and not heard(noise, quiet=takes.room(noise))


def test_waiting_is_told():
    assert list(takes.takes([room(2 * takes.PATIENCE + 1)])) == [None, None]


def test_a_room_that_becomes_loud_is_learnt():
    """A fan that is switched on is one long take; the words after it are heard again."""
    audio = np.concatenate([room(1), room(20, 0.02), word(peak=0.9), room(1, 0.02)])
    assert heard(audio)[-1].fault == ""


def test_the_room_of_a_recording():
    assert takes.room(takes_of(2)) == pytest.approx(-60, abs=1)
    assert takes.room(np.zeros(100, np.float32)) == takes.FLOOR
    assert takes.room(word()) < -30  # nearly all of it is speech
