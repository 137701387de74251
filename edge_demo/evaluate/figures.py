"""All figures of a bundle."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_demo.evaluate import clips, false_accepts, misses, negatives
from edge_demo.evaluate.det import Det, det_curve
from edge_demo.evaluate.false_accepts import Alarms, score_stream
from edge_demo.evaluate.negatives import Stream
from edge_demo.evaluate.recordings import load
from runtime.bundle.engine import Engine


class Evaluation(NamedTuple):
    """Of one keyword."""

    figures: dict
    det: Det
    scores: np.ndarray  # (clips,) see clip_scores
    labels: np.ndarray  # (clips,)
    hits: np.ndarray  # (keyword clips,) whether each was detected in clean streams at the threshold
    alarms: list[Alarms]


def evaluate(
    engine: Engine,
    base: Path,
    testing: list[Stream],
    thresholds: list[float] | None = None,
    conditions: Iterable[str] = misses.CONDITIONS,
) -> list[Evaluation]:
    """All figures of each keyword of a bundle but for the tracks', at `thresholds` (default: the bundle's).

    Raises DataError when there are too few clips to measure with.
    """
    words = list(enumerate(engine.keywords))
    recordings = [load(base, word) for word in engine.keywords]
    scored = [score_stream(engine, stream) for stream in testing]
    evaluations = []
    for (keyword, word), mine, threshold in zip(words, recordings, thresholds or engine.thresholds, strict=True):
        alarms = [stream.alarms(keyword, word) for stream in scored]
        alarms.append(score_stream(engine, negatives.joined(mine)).alarms(keyword, word))
        scores, labels = clips.clip_scores(engine, mine, keyword)
        missed, clean = misses.miss_figures(engine, mine, keyword, threshold, conditions)
        figures = {
            "model": engine.model,
            "threshold": threshold,
            "validation_clips_missed": clips.validation_misses(engine, mine, keyword, threshold),
            **clips.clip_figures(scores, labels),
            **false_accepts.alarm_figures(alarms, threshold),
            **missed,
            **clips.start_figures(engine, mine, keyword, threshold),
        }
        det = det_curve(clean, false_accepts.together(alarms) or alarms[0], threshold)
        evaluations.append(Evaluation(figures, det, scores, labels, clean.detected(threshold), alarms))
    return evaluations


def operating_points(engine: Engine, validation: list[Stream], rate: float) -> list[float]:
    """The threshold of each keyword that makes at most `rate` false accepts an hour. Raises DataError."""
    scored = [score_stream(engine, stream) for stream in validation]
    return [
        false_accepts.operating_point([stream.alarms(keyword, word) for stream in scored], rate)
        for keyword, word in enumerate(engine.keywords)
    ]
