"""Clips by themselves: FRR at a FAR, and misses of clips as files of their own."""

import numpy as np

from edge_demo.evaluate.recordings import Recordings, progress, stream
from runtime.audio.hops import cut, quiet_room
from runtime.bundle.engine import Engine
from training import metrics
from training.data.noises import low_noise
from training.data.recordings import SAMPLE_RATE
from training.windows.augment import AROUND


def clip_scores(engine: Engine, recordings: Recordings, keyword: int) -> tuple[np.ndarray, np.ndarray]:
    """Every clip by itself from zero state, half a second of low noise after it: its highest score, and 1 for clips of
    the keyword."""
    rng = np.random.default_rng(1)
    clips = recordings.positives + recordings.negatives
    labels = np.array([1] * len(recordings.positives) + [0] * len(recordings.negatives))
    padded = (np.concatenate([clip, low_noise(AROUND, rng)]) for clip in progress(clips, "clips"))
    return np.array([stream(engine, clip, keyword).max() for clip in padded]), labels


def clip_figures(scores: np.ndarray, labels: np.ndarray) -> dict:
    return {
        "clips": {"keyword": int(labels.sum()), "others": int((1 - labels).sum())},
        "au_fa_fr": metrics.au_fa_fr(scores, labels),
        "one_minus_auroc": metrics.one_minus_auroc(scores, labels),
        "frr_at_half_percent_far": metrics.frr_at_far(scores, labels, 0.005),
        "frr_at_half_percent_far_interval": metrics.bootstrap(scores, labels),
    }


def as_file(engine: Engine, clip: np.ndarray, keyword: int) -> float:
    """The highest score of a clip that listen.py --wav reads from a file: from zero state, the last hop padded with
    zeros, followed by faint noise."""
    engine.reset()
    hops = [*cut([clip], engine.hop_samples), *quiet_room(engine.hop_samples)]
    return max(float(engine.step(hop)[keyword]) for hop in hops)


def start_figures(engine: Engine, recordings: Recordings, keyword: int, threshold: float) -> dict:
    """Misses of clips that are files by themselves, and of clips after a second of digital silence."""
    figures = {}
    for name, silence in (("as_a_file", 0), ("after_digital_silence", SAMPLE_RATE)):
        before = np.zeros(silence, np.float32)
        scores = [as_file(engine, np.append(before, clip), keyword) for clip in progress(recordings.positives, name)]
        missed = int((np.array(scores) < np.float32(threshold)).sum())
        figures[f"misses_{name}"] = {"share": missed / len(scores), "interval": metrics.wilson(missed, len(scores))}
    return figures


def validation_misses(engine: Engine, recordings: Recordings, keyword: int, threshold: float) -> float:
    """Share of the validation clips, each from zero state, that stay below the threshold."""
    rng = np.random.default_rng(5)
    clips = [np.concatenate([clip, low_noise(AROUND, rng)]) for clip in recordings.validation]
    return float(np.mean([stream(engine, clip, keyword).max() < threshold for clip in clips])) if clips else 0.0
