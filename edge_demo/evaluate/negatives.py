"""False accepts: hours of recordings without the keyword, each kind one stream, at every threshold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_demo.evaluate.recordings import Recordings, bar
from runtime.audio.hops import cut
from runtime.bundle.engine import Engine
from training import metrics
from training.data import corpora
from training.data import recordings as data
from training.data.corpora import Recording
from training.data.recordings import SAMPLE_RATE, to_float

JOINED = "joined_negatives"  # clips of other words, as one stream
TOGETHER = "speech"  # all of corpora.SPEECH
LATEST = 0.5  # seconds after a recording's end at which an event still belongs to it
WORST = 2  # how many times the wanted rate a single kind of speech may have, and one event in any case

Intervals = tuple[np.ndarray, np.ndarray]  # see metrics.event_intervals


class Stream(NamedTuple):
    name: str
    recordings: Sequence[Recording]


@dataclass(frozen=True)
class InMemory(Recording):
    audio: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # float32

    def read(self) -> np.ndarray:
        return np.round(self.audio * 32768).clip(-32768, 32767).astype(np.int16)


def kinds(split: str, base: Path) -> list[Stream]:
    """A stream of each kind that there are recordings of. Raises DataError where a package cannot be had."""
    found = [Stream(kind, corpora.recordings(kind, split, base)) for kind in corpora.KINDS]
    return [one for one in found if one.recordings]


def of_folders(folders: Sequence[Path]) -> list[Stream]:
    """The user's own, a stream each. Raises DataError for one without recordings."""
    found = []
    for folder in folders:
        clips = data.clips_of(folder, words=False)
        if not clips:
            raise data.DataError(f"{folder}: no recordings ({' '.join(data.SUFFIXES)}); name another with --also")
        name = folder.resolve().name
        named = [(f"{name}/{clip.path.relative_to(folder).as_posix()}", clip.path) for clip in clips]
        found.append(Stream(name, [Recording(label, name, "testing", name, path) for label, path in named]))
    return found


def joined(recordings: Recordings) -> Stream:
    """Clips of other words in a random order that is always the same."""
    order = np.random.default_rng(2).permutation(len(recordings.negatives))
    named = [(recordings.files[i], recordings.negatives[i]) for i in order]
    return Stream(JOINED, [InMemory(name, JOINED, "testing", JOINED, None, 0, audio) for name, audio in named])


@dataclass(frozen=True)
class Heard:
    """What a bundle made of a stream."""

    stream: Stream
    scores: np.ndarray  # (hops, keywords)
    ends: np.ndarray  # (recordings,) of each, in samples
    hop_samples: int
    refractory_hops: int

    def alarms(self, keyword: int, word: str) -> "Alarms":
        """Without the recordings in which the keyword is known to be said."""
        low, high = metrics.event_intervals(self.scores[:, keyword], self.refractory_hops)
        at = (np.arange(len(high)) + 1) * self.hop_samples
        counted, said = np.ones(len(high), bool), []
        starts = np.concatenate([[0], self.ends[:-1]])
        for place, recording in enumerate(self.stream.recordings):
            if corpora.says(recording, word):
                inside = (at > starts[place]) & (at <= self.ends[place] + LATEST * SAMPLE_RATE)
                counted &= ~inside
                said.append((low[inside], high[inside]))
        places = np.minimum(np.searchsorted(self.ends, at), len(self.ends) - 1)
        return Alarms(
            self.stream.name,
            counted.sum() * self.hop_samples / SAMPLE_RATE / 3600,
            (low[counted], high[counted]),
            [str(one.path or one.name) for one in self.stream.recordings],
            places[counted],
            ((at - starts[places]) / SAMPLE_RATE)[counted],
            said,
        )


@dataclass(frozen=True)
class Alarms:
    """A stream without a keyword, at every threshold."""

    name: str
    hours: float
    intervals: Intervals  # (hops,)
    files: list[str]
    places: np.ndarray  # (hops,) index of the file that each hop ends in
    seconds: np.ndarray  # (hops,) of its end from the start of the file
    said: list[Intervals]  # of recordings that were left out, as the keyword is said there

    def count(self, threshold: float) -> int:
        return int(metrics.count_events(self.intervals, threshold))

    def per_hour(self, thresholds: np.ndarray) -> np.ndarray:
        return metrics.count_events(self.intervals, thresholds) / self.hours

    def found(self, threshold: float) -> int:
        """In how many of the recordings that were left out the keyword is detected."""
        return sum(bool(((low < threshold) & (threshold <= high)).any()) for low, high in self.said)

    def fired(self, threshold: float) -> Iterator[tuple[float, str, float]]:
        """Each false accept: its highest score, file, seconds."""
        low, high = self.intervals
        hops = np.flatnonzero((low < threshold) & (threshold <= high))
        for hop, following in pairwise([*hops, len(high)]):
            yield float(high[hop:following].max()), self.files[self.places[hop]], float(self.seconds[hop])


def hear(engine: Engine, stream: Stream) -> Heard:
    """From zero state, one recording after the other, of which one at a time is in memory."""
    lengths: list[int] = []

    def blocks() -> Iterator[np.ndarray]:
        for recording in bar(stream.recordings, stream.name):
            lengths.append(len(audio := to_float(recording.read())))
            yield audio

    engine.reset()
    scores = [engine.step(hop) for hop in cut(blocks(), engine.hop_samples)]
    return Heard(
        stream,
        np.array(scores).reshape(len(scores), len(engine.keywords)),
        np.cumsum(lengths),
        engine.hop_samples,
        engine.refractory_hops,
    )


def together(heard: list[Alarms]) -> Alarms | None:
    """All kinds of speech as one; None where there is none."""
    some = [alarms for alarms in heard if alarms.name in corpora.SPEECH]
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
        [one for alarms in some for one in alarms.said],
    )


def false_accepts(events: int, hours: float) -> dict:
    """With an exact Poisson interval."""
    low, high = metrics.poisson(events)
    return {
        "false_accepts": events,
        "hours": round(hours, 3),
        "per_hour": events / hours,
        "per_hour_interval": (low / hours, high / hours),
    }


def alarm_figures(heard: list[Alarms], threshold: float) -> dict:
    """False accepts of each stream and of all speech; what was left out, and what of it was detected."""
    figures: dict = {
        f"{alarms.name}_at_operating_point": false_accepts(alarms.count(threshold), alarms.hours)
        for alarms in [together(heard), *heard]
        if alarms
    }
    left_out = [(len(alarms.said), alarms.found(threshold)) for alarms in heard]
    recordings, found = (sum(counts) for counts in zip(*left_out, strict=True))
    return figures | {"keyword_said": {"recordings_left_out": recordings, "of_these_detected": found}}


def operating_point(heard: list[Alarms], wanted: float) -> float:
    """The lowest threshold with at most `wanted` false accepts an hour in all speech together, in noise and in each of
    the user's folders, and at most WORST times that, or one, in each kind of speech.

    heard: of the validation split. Raises DataError without any.
    """
    if not heard:
        raise data.DataError("an operating point needs recordings for validation, or a folder with --also")
    speech = [alarms for alarms in heard if alarms.name in corpora.SPEECH]
    bounds = [(alarms, max(1, int(WORST * wanted * alarms.hours))) for alarms in speech]
    whole = [alarms for alarms in [together(heard), *heard] if alarms and alarms.name not in corpora.SPEECH]
    bounds += [(alarms, int(wanted * alarms.hours)) for alarms in whole]
    return max(metrics.operating_point(alarms.intervals, most) for alarms, most in bounds)
