"""All figures of a bundle."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_demo.evaluate import clips, misses, negatives
from edge_demo.evaluate.det import Det, det_curve
from edge_demo.evaluate.negatives import Alarms, Stream
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
    validation: list[Stream] | None = None,
    wanted: float = 0.0,
    conditions: Iterable[str] = misses.CONDITIONS,
) -> list[Evaluation]:
    """All figures of each keyword of a bundle but for the tracks', at its threshold; with `validation` at the one that
    makes `wanted` false accepts an hour there. Raises DataError where there is too little to measure with."""
    recordings = [load(base, word) for word in engine.keywords]
    chosen = [negatives.hear(engine, stream) for stream in validation or []]
    heard = [negatives.hear(engine, stream) for stream in testing]
    found = []
    for keyword, word in enumerate(engine.keywords):
        mine, threshold = recordings[keyword], engine.thresholds[keyword]
        if validation is not None:
            threshold = negatives.operating_point([one.alarms(keyword, word) for one in chosen], wanted)
        alarms = [one.alarms(keyword, word) for one in heard]
        alarms.append(negatives.hear(engine, negatives.joined(mine)).alarms(keyword, word))
        scores, labels = clips.clip_scores(engine, mine, keyword)
        missed, clean = misses.miss_figures(engine, mine, keyword, threshold, conditions)
        figures = {
            "model": engine.model,
            "threshold": threshold,
            "validation_clips_missed": clips.validation_misses(engine, mine, keyword, threshold),
            **clips.clip_figures(scores, labels),
            **negatives.alarm_figures(alarms, threshold),
            **missed,
            **clips.start_figures(engine, mine, keyword, threshold),
        }
        det = det_curve(clean, negatives.together(alarms) or alarms[0], threshold)
        found.append(Evaluation(figures, det, scores, labels, clean.hits(threshold), alarms))
    return found
