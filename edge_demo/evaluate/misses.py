"""Misses: clips of the keyword in streams, as recorded, in noise, quieter and louder; and among other clips."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edge_demo.evaluate.false_accepts import LATEST
from edge_demo.evaluate.recordings import Recordings, progress, stream
from runtime.bundle.engine import Engine
from training import metrics
from training.data import recordings as data
from training.data.noises import low_noise
from training.data.recordings import SAMPLE_RATE
from training.windows import augment
from training.windows.augment import AROUND

TRACKS, OTHERS = 100, 20  # of each: clips of other words around one of the keyword
CLIPS_PER_STREAM = 12  # with two seconds of other words between them that makes a minute
ROOMS = 40
ROOM_SEED = 1_000_003  # not training's
CONDITIONS = {  # name → (signal-to-noise ratio in dB or None for as recorded, factor of level)
    "clean": (None, 1.0),
    "20_db": (20, 1.0),
    "10_db": (10, 1.0),
    "5_db": (5, 1.0),
    "0_db": (0, 1.0),
    "10_times_quieter": (None, 0.1),
    "4_times_louder": (None, 4.0),
}


@dataclass(frozen=True)
class Hits:
    """Events of each clip of the keyword in streams, at every threshold."""

    intervals: list[tuple[np.ndarray, np.ndarray]]  # of hops in which an event is a hit, see event_intervals
    delays: list[np.ndarray]  # of those hops: seconds from the end of the word to the end of the hop

    def detected(self, threshold: float) -> np.ndarray:
        """(clips,) whether each was detected."""
        return np.array([((low < threshold) & (threshold <= high)).any() for low, high in self.intervals])

    def first_delays(self, threshold: float) -> np.ndarray:
        """Delay of the first event of each clip that was detected."""
        firsts = []
        for (low, high), delays in zip(self.intervals, self.delays, strict=True):
            events = delays[(low < threshold) & (threshold <= high)]
            firsts += list(events[:1])
        return np.array(firsts)


def keyword_streams(
    engine: Engine, recordings: Recordings, keyword: int, rooms: list[np.ndarray], snr: float | None, gain: float
) -> Hits:
    """All clips of the keyword, a dozen to a stream, other words between them.

    With `snr`, each clip stands in one random room, and one random noise sounds from half a second before it to half a
    second after it. An event between a clip's start and LATEST after its end is a hit. A score that is high before the
    clip starts makes a miss, because then there is no new event.
    """
    rng = np.random.default_rng(4)
    hop = engine.hop_samples
    hits = Hits([], [])
    clips, noises = recordings.positives, recordings.noises or [np.zeros(1, np.float32)]
    for first in progress(range(0, len(clips), CLIPS_PER_STREAM), "streams"):
        pieces, spans = [low_noise(SAMPLE_RATE, rng)], []
        for clip in clips[first : first + CLIPS_PER_STREAM]:
            pieces += [recordings.negatives[int(i)] for i in rng.choice(len(recordings.negatives), 2, replace=False)]
            segment = augment.spoken_in(clip, noises, rooms, snr, rng)
            start = sum(map(len, pieces)) + AROUND
            pieces.append(segment)
            spans.append((start, start + data.spoken_part(clip)[1], start + len(clip)))
        audio = np.clip(np.concatenate([*pieces, low_noise(SAMPLE_RATE, rng)]) * gain, -1, 1)
        low, high = metrics.event_intervals(stream(engine, audio, keyword), engine.refractory_hops)
        ends = (np.arange(len(high)) + 1) * hop
        for start, word_end, end in spans:
            inside = (ends > start) & (ends <= end + LATEST * SAMPLE_RATE)
            hits.intervals.append((low[inside], high[inside]))
            hits.delays.append((ends[inside] - word_end) / SAMPLE_RATE)
    return hits


def miss_figures(
    engine: Engine, recordings: Recordings, keyword: int, threshold: float, conditions: Iterable[str] = CONDITIONS
) -> tuple[dict, Hits]:
    """Misses in each condition, and time to the event; also the hits in the clean streams."""
    rooms = augment.room_responses(ROOMS, ROOM_SEED)
    figures: dict = {}
    clean = Hits([], [])
    for name in conditions:
        snr, gain = CONDITIONS[name]
        if snr is not None and not recordings.noises:
            continue
        hits = keyword_streams(engine, recordings, keyword, rooms, snr, gain)
        detected = hits.detected(threshold)
        missed, n = int((~detected).sum()), len(detected)
        figures[f"misses_{name}"] = {"share": missed / n, "interval": metrics.wilson(missed, n)}
        if name == "clean":
            clean = hits
            delays = hits.first_delays(threshold)
            if len(delays):
                figures["seconds_to_event"] = {
                    "median": float(np.median(delays)),
                    "p90": float(np.quantile(delays, 0.9)),
                }
    return figures, clean


def track_figures(engine: Engine, recordings: Recordings, keyword: int, threshold: float) -> dict:
    """Tracks of 20 other clips around one of the keyword: shares with one detection there, and with none elsewhere."""
    rng = np.random.default_rng(3)
    once = clean = 0
    for _ in progress(range(TRACKS), "tracks"):
        pieces = [recordings.negatives[i] for i in rng.choice(len(recordings.negatives), OTHERS, replace=False)]
        place = int(rng.integers(OTHERS + 1))
        pieces.insert(place, recordings.positives[int(rng.integers(len(recordings.positives)))])
        start = sum(map(len, pieces[:place])) / SAMPLE_RATE
        end = start + len(pieces[place]) / SAMPLE_RATE
        times = events(engine, np.concatenate([*pieces, low_noise(AROUND, rng)]), keyword, threshold)
        inside = [start <= t <= end + 0.6 for t in times]
        once += sum(inside) == 1
        clean += sum(inside) == len(inside)
    return {"tracks": TRACKS, "one_detection_at_keyword": once / TRACKS, "none_elsewhere": clean / TRACKS}


def events(engine: Engine, audio: np.ndarray, keyword: int, threshold: float) -> np.ndarray:
    """Times of the events in seconds: the end of the hop."""
    low, high = metrics.event_intervals(stream(engine, audio, keyword), engine.refractory_hops)
    hops = np.flatnonzero((low < threshold) & (threshold <= high))
    return (hops + 1) * engine.hop_samples / SAMPLE_RATE
