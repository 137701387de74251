"""Detections in Python.

    for event in Listener("happy"):                 # the microphone, until the loop is left
        print(event.keyword, event.time, event.peak)

    detector = Detector("jarvis")
    for chunk in chunks:                            # int16 or float32, 16 kHz, one channel, any length
        for event in detector.process(chunk):
            ...

`Engine` and `bundle.detector.Detector` are the level below: hops and scores.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.audio.hops import Rechunker, Samples, quiet_room, wav_hops
from runtime.bundle import detector
from runtime.bundle.engine import Engine
from runtime.bundle.peaks import Event, Peaks
from runtime.bundle.shipped import find
from runtime.errors import AudioError, BundleError, OptionsError
from runtime.journal import remark
from runtime.sample_rate import SAMPLE_RATE

__all__ = ["AudioError", "BundleError", "Detector", "Event", "Listener", "OptionsError"]

Choice = float | Mapping[str, float] | None
ROOM_SECONDS = 1.0  # before a file: see `quiet_room`


class Detector:
    """A bundle that listens to audio in chunks.

    bundle: its folder, or the name or keyword of a shipped one. threshold, false_accepts: what listen.py's options of
    these names take, a number or numbers by keyword; the bundle's own operating point if neither is given.

    Raises BundleError, and OptionsError where the bundle has measured no such rate of false accepts.
    """

    def __init__(
        self, bundle: str | os.PathLike[str] = "happy", *, threshold: Choice = None, false_accepts: Choice = None
    ) -> None:
        if threshold is not None and false_accepts is not None:
            raise OptionsError("threshold and false_accepts exclude each other: give one")
        self.engine = Engine(find(os.fspath(bundle)))
        self.keywords = self.engine.keywords
        thresholds = self.engine.chosen_thresholds(_by_keyword(threshold), _by_keyword(false_accepts))
        self._detector = detector.Detector(thresholds, self.engine.refractory_hops)
        self._chunks = Rechunker(self.engine.hop_samples)
        self.reset()

    @property
    def thresholds(self) -> list[float]:
        """One for each keyword."""
        return self._detector.thresholds

    def reset(self) -> None:
        """Start a new stream, at time 0 and after silence."""
        self.engine.reset()
        self._detector.reset()
        self._chunks.restart()
        self._peaks = Peaks(self.keywords, self.engine.refractory_hops)
        self._samples = 0

    def process(self, chunk: NDArray[np.int16] | NDArray[np.float32]) -> list[Event]:
        """Audio of any length → the events that begin in it, at once; samples left over wait for the next chunk.

        chunk: (n,), 16 kHz, int16 or float32 in -1…1. The `peak` of an event goes on rising in later chunks, until the
        event is over. Raises ValueError for anything else.
        """
        return [event for hop in self._chunks.push(_samples(chunk)) for event in self.step(hop)[0]]

    def step(self, hop: Samples) -> tuple[list[Event], list[Event]]:
        """One hop, float32 (hop_samples,) → the events that begin in it, and those that are over."""
        scores = self.engine.step(hop)
        self._samples += len(hop)
        fired = self._detector.step(scores)
        return self._peaks.step(scores.tolist(), self._detector.thresholds, fired, self._samples / SAMPLE_RATE)

    def skip(self, samples: int) -> list[Event]:
        """So many samples are missing → the events that are over by that. The model starts from silence."""
        self._samples += samples
        self.engine.reset()
        self._detector.skip(samples // self.engine.hop_samples)
        return self._peaks.end()

    def end(self) -> list[Event]:
        """The stream has ended → the events that are over by that."""
        return self._peaks.end()


class Listener:
    """Events of the microphone, or of a file, each when it is over: `peak` is then the event's highest score.

    For `for` and `async for`. bundle, threshold, false_accepts: as for Detector. device: a microphone by number or part
    of its name, None for the system's. wav: an audio file instead. A microphone that is lost is waited for.

    Raises BundleError and OptionsError; AudioError while iterating.
    """

    def __init__(
        self, bundle: str | os.PathLike[str] = "happy", *, device: str | int | None = None,
        wav: str | os.PathLike[str] | None = None, threshold: Choice = None, false_accepts: Choice = None
    ) -> None:
        self.detector = Detector(bundle, threshold=threshold, false_accepts=false_accepts)
        self._device = None if device is None else str(device)
        self._wav = None if wav is None else os.fspath(wav)

    def __iter__(self) -> Iterator[Event]:
        for events in self._ticks():
            yield from events

    async def __aiter__(self) -> AsyncIterator[Event]:
        ticks = self._ticks()
        try:
            while (events := await asyncio.to_thread(next, ticks, None)) is not None:
                for event in events:
                    yield event
        finally:
            await asyncio.to_thread(_close, ticks)

    def _ticks(self) -> Iterator[list[Event]]:
        """What is over after each hop, and nothing four times a second while no audio comes."""
        self.detector.reset()
        if self._wav is None:
            yield from self._live()
            return
        hop_samples = self.detector.engine.hop_samples
        for hop in quiet_room(hop_samples, ROOM_SECONDS):
            self.detector.engine.step(hop)
        for hop in chain(wav_hops(self._wav, hop_samples, remark), quiet_room(hop_samples)):
            yield self.detector.step(hop)[1]
        yield self.detector.end()

    def _live(self) -> Iterator[list[Event]]:
        from runtime.audio.microphone import Microphone

        microphone = Microphone(self._device, self.detector.engine.hop_samples, lambda event, **fields: None)
        try:
            for item in microphone.stream():
                if item is None:
                    yield []
                elif isinstance(item, tuple):
                    yield self.detector.skip(item.samples)
                else:
                    yield self.detector.step(item)[1]
        finally:
            microphone.close()


def _by_keyword(choice: Choice) -> Mapping[str, float]:
    if choice is None:
        return {}
    return choice if isinstance(choice, Mapping) else {"": choice}


def _samples(chunk: Any) -> Samples:
    """Raises ValueError."""
    if isinstance(chunk, np.ndarray) and chunk.ndim == 1:
        if chunk.dtype == np.int16:
            return chunk.astype(np.float32) / np.float32(32768)
        if chunk.dtype == np.float32:
            return np.array(chunk)  # what is left over must not change when the caller's buffer does
    kind = f"{chunk.dtype} of shape {chunk.shape}" if isinstance(chunk, np.ndarray) else type(chunk).__name__
    raise ValueError(f"a chunk is int16 or float32 of shape (n,) at 16 kHz, got {kind}")


def _close(ticks: Any) -> None:
    ticks.close()
