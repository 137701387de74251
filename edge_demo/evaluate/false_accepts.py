"""False accepts in streams without the keyword, at every threshold."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edge_demo.evaluate.negatives import Stream
from edge_demo.evaluate.recordings import progress
from runtime.audio.hops import cut
from runtime.bundle.engine import Engine
from training import metrics
from training.data import corpora
from training.data import recordings as data
from training.data.recordings import SAMPLE_RATE, to_float

TOGETHER = "speech"  # all of corpora.SPEECH
LATEST = 0.5  # seconds after a recording's end at which an event still belongs to it
WORST = 2  # times the rate that a single kind of speech may have, and one event in any case

Intervals = tuple[np.ndarray, np.ndarray]  # see metrics.event_intervals


@dataclass(frozen=True)
class StreamScores:
    """A bundle's scores over a stream."""

    stream: Stream
    scores: np.ndarray  # (hops, keywords)
    ends: np.ndarray  # (recordings,) of each, in samples
    hop_samples: int
    refractory_hops: int

    def alarms(self, keyword: int, word: str) -> "Alarms":
        """Of one keyword, without the recordings in which it is known to be spoken."""
        low, high = metrics.event_intervals(self.scores[:, keyword], self.refractory_hops)
        at = (np.arange(len(high)) + 1) * self.hop_samples
        counted, left_out = np.ones(len(high), bool), []
        starts = np.concatenate([[0], self.ends[:-1]])
        for place, recording in enumerate(self.stream.recordings):
            if corpora.says(recording, word):
                inside = (at > starts[place]) & (at <= self.ends[place] + LATEST * SAMPLE_RATE)
                counted &= ~inside
                left_out.append((low[inside], high[inside]))
        places = np.minimum(np.searchsorted(self.ends, at), len(self.ends) - 1)
        return Alarms(
            self.stream.name,
            counted.sum() * self.hop_samples / SAMPLE_RATE / 3600,
            (low[counted], high[counted]),
            [str(one.path or one.name) for one in self.stream.recordings],
            places[counted],
            ((at - starts[places]) / SAMPLE_RATE)[counted],
            left_out,
        )


@dataclass(frozen=True)
class Alarms:
    """Events in a stream without the keyword, at every threshold."""

    name: str
    hours: float
    intervals: Intervals  # (hops,)
    files: list[str]
    places: np.ndarray  # (hops,) index of the file that each hop ends in
    seconds: np.ndarray  # (hops,) of its end from the start of the file
    left_out: list[Intervals]  # of recordings in which the keyword is spoken

    def count(self, threshold: float) -> int:
        return int(metrics.count_events(self.intervals, threshold))

    def per_hour(self, thresholds: np.ndarray) -> np.ndarray:
        return metrics.count_events(self.intervals, thresholds) / self.hours

    def left_out_detected(self, threshold: float) -> int:
        """In how many of the recordings that are left out the keyword is detected."""
        return sum(bool(((low < threshold) & (threshold <= high)).any()) for low, high in self.left_out)

    def events(self, threshold: float) -> Iterator[tuple[float, str, float]]:
        """Each false accept: its highest score, file, seconds."""
        low, high = self.intervals
        hops = np.flatnonzero((low < threshold) & (threshold <= high))
        for hop, following in pairwise([*hops, len(high)]):
            yield float(high[hop:following].max()), self.files[self.places[hop]], float(self.seconds[hop])


def score_stream(engine: Engine, stream: Stream) -> StreamScores:
    """From zero state, one recording after the other. One at a time is in memory."""
    lengths: list[int] = []

    def blocks() -> Iterator[np.ndarray]:
        for recording in progress(stream.recordings, stream.name):
            lengths.append(len(audio := to_float(recording.read())))
            yield audio

    engine.reset()
    scores = [engine.step(hop) for hop in cut(blocks(), engine.hop_samples)]
    return StreamScores(
        stream,
        np.array(scores).reshape(len(scores), len(engine.keywords)),
        np.cumsum(lengths),
        engine.hop_samples,
        engine.refractory_hops,
    )


def together(streams: list[Alarms]) -> Alarms | None:
    """All kinds of speech as one stream; None without speech."""
    some = [alarms for alarms in streams if alarms.name in corpora.SPEECH]
    if not some:
        return None
    low, high = (np.concatenate([alarms.intervals[i] for alarms in some]) for i in range(2))
    before = np.cumsum([0, *(len(alarms.files) for alarms in some)])
    return Alarms(
        TOGETHER,
        sum(alarms.hours for alarms in some),
        (low, high),
        [file for alarms in some for file in alarms.files],
        np.concatenate([alarms.places + first for alarms, first in zip(some, before[:-1], strict=True)]),
        np.concatenate([alarms.seconds for alarms in some]),
        [one for alarms in some for one in alarms.left_out],
    )


def rate_figures(events: int, hours: float) -> dict:
    """False accepts and their rate, with an exact Poisson interval."""
    low, high = metrics.poisson(events)
    return {
        "false_accepts": events,
        "hours": round(hours, 3),
        "per_hour": events / hours,
        "per_hour_interval": (low / hours, high / hours),
    }


def alarm_figures(streams: list[Alarms], threshold: float) -> dict:
    """False accepts of each stream and of all speech; how many recordings were left out, and detections in these."""
    figures: dict = {
        f"{alarms.name}_at_operating_point": rate_figures(alarms.count(threshold), alarms.hours)
        for alarms in [together(streams), *streams]
        if alarms
    }
    left_out = sum(len(alarms.left_out) for alarms in streams)
    detected = sum(alarms.left_out_detected(threshold) for alarms in streams)
    return figures | {"keyword_spoken": {"recordings_left_out": left_out, "of_these_detected": detected}}


def operating_point(streams: list[Alarms], rate: float) -> float:
    """The lowest threshold with at most `rate` false accepts an hour in all speech together, in noise and in each of
    the user's folders, and at most WORST times that, or one, in each kind of speech.

    streams: of the validation split. Raises DataError without any.
    """
    if not streams:
        raise data.DataError("an operating point needs recordings for validation, or a folder with --also")
    speech = [alarms for alarms in streams if alarms.name in corpora.SPEECH]
    bounds = [(alarms, max(1, int(WORST * rate * alarms.hours))) for alarms in speech]
    whole = [alarms for alarms in [together(streams), *streams] if alarms and alarms.name not in corpora.SPEECH]
    bounds += [(alarms, int(rate * alarms.hours)) for alarms in whole]
    return max(metrics.operating_point(alarms.intervals, most) for alarms, most in bounds)
