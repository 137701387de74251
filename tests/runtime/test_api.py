"""The Python API: three lines, chunks of any length, events with their peaks."""

import asyncio
import doctest
import shutil
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from toy import CURVE

import runtime
from runtime import BundleError, Detector, Listener, OptionsError
from runtime.bundle.peaks import Peaks

ROOT = Path(__file__).resolve().parents[2]
SILENCE, LOUD = np.zeros(16000, np.float32), (0.5 * np.sin(np.arange(16000))).astype(np.float32)
TRACK = np.concatenate([SILENCE, LOUD, SILENCE, SILENCE, LOUD])


def told(events) -> list[tuple[str, float]]:
    return [(event.keyword, round(event.time, 2)) for event in events]


@pytest.mark.parametrize("length", [1, 7, 1279, 1280, 1281, 5000, len(TRACK)])
def test_chunks_of_any_length_give_the_same_events(bundle, length):
    track = TRACK[:20_000] if length < 7 else TRACK
    detector = Detector(bundle)
    whole = told(detector.process(track))
    assert [word for word, _ in whole] == ["loud"] * len(whole) and whole
    detector.reset()
    chunks = [track[start : start + length] for start in range(0, len(track), length)]
    assert told(event for chunk in chunks for event in detector.process(chunk)) == whole


def test_int16_is_what_float32_is(bundle):
    one, other = Detector(bundle), Detector(bundle)
    pcm = np.round(TRACK * 32767).astype(np.int16)
    events = one.process(pcm)
    assert told(events) == told(other.process(pcm.astype(np.float32) / 32768)) and len(events) == 2


@pytest.mark.parametrize("chunk", [b"abcd", [0.0], np.zeros(4), np.zeros((2, 1280), np.float32), np.zeros(3, np.int32)])
def test_other_chunks_are_refused(bundle, chunk):
    with pytest.raises(ValueError, match="a chunk is int16 or float32 of shape"):
        Detector(bundle).process(chunk)


def test_the_callers_buffer_may_change(bundle):
    one, other, buffer = Detector(bundle), Detector(bundle), np.zeros(1000, np.float32)
    found = []
    for start in range(0, len(TRACK), 1000):
        buffer[:] = TRACK[start : start + 1000]
        found += one.process(buffer)
        buffer[:] = np.nan
    assert told(found) == told(other.process(TRACK)) and one.engine.nan_resets == 0


def test_a_peak_rises_until_the_event_is_over(bundle):
    detector = Detector(bundle)
    (event,) = detector.process(TRACK[: 14 * 1280])
    first = event.peak
    assert first == event.score
    detector.process(TRACK[14 * 1280 : 32000])
    assert event.score == first < event.peak <= 1


def test_an_event_is_over_below_the_threshold_or_after_the_refractory_time():
    peaks = Peaks(["a", "b"], 3)

    def step(a: float, b: float, fired=()):
        return tuple([event.keyword for event in events] for events in peaks.step([a, b], [0.5, 0.5], fired, 0.0))

    assert step(0.6, 0.1, [0]) == (["a"], [])
    assert step(0.9, 0.7, [1]) == (["b"], [])
    assert step(0.4, 0.7) == ([], ["a"])
    assert [step(0.1, 0.7) for _ in range(2)] == [([], []), ([], [])]
    assert step(0.1, 0.7) == ([], ["b"])
    assert step(0.6, 0.1, [0]) == (["a"], []) and [event.keyword for event in peaks.end()] == ["a"] and not peaks.end()


def test_the_operating_point_may_be_chosen(make_bundle):
    bundle = make_bundle(operating_points=[CURVE])
    assert Detector(bundle).thresholds == [0.5]
    assert Detector(bundle, threshold=0.25).thresholds == [0.25]
    assert Detector(bundle, false_accepts={"loud": 0.5}).thresholds == [0.75]
    with pytest.raises(OptionsError, match="exclude each other"):
        Detector(bundle, threshold=0.5, false_accepts=1)
    with pytest.raises(OptionsError, match="the least measured for 'loud' is 0.125"):
        Detector(bundle, false_accepts=0.1)
    with pytest.raises(BundleError, match="nowhere"):
        Detector("nowhere")


@pytest.fixture
def track(tmp_path):
    with wave.open(str(tmp_path / "track.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(np.round(TRACK * 32767).astype("<i2").tobytes())
    return tmp_path / "track.wav"


def test_a_listener_gives_events_when_they_are_over(bundle, track):
    events = list(Listener(bundle, wav=track))
    assert told(events) == told(Detector(bundle).process(TRACK))
    assert all(event.peak > 0.99 for event in events)


def test_a_listener_in_asyncio(bundle, track):
    async def run() -> tuple[list, int]:
        turns = 0

        async def others():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        events = [event async for event in Listener(bundle, wav=track)]
        task.cancel()
        return events, turns

    events, turns = asyncio.run(run())
    assert len(events) == 2 and turns > 10


def test_the_examples_of_the_documentation(shipped, monkeypatch, tmp_path):
    """`earshot` is what the wheel calls this package."""
    monkeypatch.setitem(sys.modules, "earshot", runtime)
    monkeypatch.setattr("runtime.bundle.shipped.folder", lambda: str(shipped.parent))
    shutil.copyfile(shipped / "keywords.wav", tmp_path / "recording.wav")
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False)
    assert tried >= 6 and not failed
