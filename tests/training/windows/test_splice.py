"""A word that one recording begins and another ends."""

import numpy as np
import pytest

from training.model.features import SAMPLE_RATE
from training.windows import splice


def word(pitches: tuple[float, ...], seconds: float, around: float = 0.1, level: float = 0.3) -> np.ndarray:
    """Sounds of equal length, told apart by their pitch, with silence around them."""
    n = int(seconds * SAMPLE_RATE)
    time = np.arange(n) / SAMPLE_RATE
    sounds = [np.sin(2 * np.pi * pitch * time) for pitch in pitches]
    quiet = np.random.default_rng(0).standard_normal(int(around * SAMPLE_RATE)) * 1e-4
    return np.concatenate([quiet, level * np.concatenate(sounds), quiet]).astype(np.float32)


def sounds_in(audio: np.ndarray) -> list[float]:
    """Which of SOUNDS is heard, one after the other: of each loud 20 ms the one whose pitch is strongest there."""
    spans = audio[: len(audio) // 320 * 320].reshape(-1, 320)
    power = np.abs(np.fft.rfft(spans * np.hanning(320)))  # bins of 50 Hz
    strongest = np.array(SOUNDS)[power[:, [int(pitch / 50) for pitch in SOUNDS]].argmax(1)]
    return list(dict.fromkeys(strongest[np.abs(spans).max(1) > 0.2]))


SOUNDS = (500.0, 1500.0, 2500.0, 3500.0)


def test_alignment_finds_the_same_sound_in_a_slower_recording():
    """Sounds of 100 ms against sounds of 150 ms: the middle of each is found in the middle of its like."""
    path = splice.alignment(splice.spectra(word(SOUNDS, 0.1)), splice.spectra(word(SOUNDS, 0.15)))
    assert (np.diff(path) >= 0).all()
    for sound in range(4):
        middle, its_like = 10 + 10 * sound + 5, 10 + 15 * sound + 7
        assert abs(path[middle] - its_like) <= 5


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_spliced_word_has_all_its_sounds_once_and_in_order(share):
    """Whatever was begun at one speed and goes on at another is still the whole word."""
    whole = splice.two_in_one(word(SOUNDS, 0.1), word(SOUNDS, 0.15, around=0.3, level=0.03), share)
    assert sounds_in(whole) == list(SOUNDS)  # the last ones too, as they were brought to the level of the first


def test_join_keeps_what_is_outside_of_the_crossing():
    first, second = np.full(1000, 1, np.float32), np.full(500, 2, np.float32)
    joined = splice.join(first, second, 100)
    assert len(joined) == 1400 and (joined[:900] == 1).all() and (joined[1000:] == 2).all()
    assert (np.diff(joined[900:1000]) >= 0).all()
    assert len(splice.join(first, np.zeros(0, np.float32))) == 1000


def test_silence_is_no_reason_to_fail():
    silence = np.zeros(SAMPLE_RATE, np.float32)
    assert np.isfinite(splice.two_in_one(silence, silence, 0.5)).all()
    assert np.isfinite(splice.two_in_one(word(SOUNDS, 0.1), silence, 0.5)).all()
