"""Clips joined to one stream, so that a model scores each with a state that is minutes old."""

import numpy as np

from training.data.noises import low_noise
from training.data.recordings import SAMPLE_RATE

GAP = 3 * SAMPLE_RATE // 2  # after each clip: longer than the attention remembers
LATEST = SAMPLE_RATE // 2  # after a clip's end, in which a score still counts as the clip's


def joined(clips: list[np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips in random order with low noise between them → the stream (samples,), and start and end of each clip in it:
    (clips, 2), in samples, in the order of `clips`."""
    rng = np.random.default_rng(seed)
    spans = np.zeros((len(clips), 2), int)
    pieces, at = [low_noise(GAP, rng)], GAP
    for index in rng.permutation(len(clips)):
        spans[index] = at, at + len(clips[index])
        pieces += [clips[index], low_noise(GAP, rng)]
        at += len(clips[index]) + GAP
    return np.concatenate(pieces).astype(np.float32), spans


def clip_scores(scores: np.ndarray, spans: np.ndarray, hop_samples: int) -> np.ndarray:
    """Scores of the stream's hops (hops, keywords) → (clips, keywords): each clip's highest until LATEST after it."""
    hops = [(start // hop_samples, (end + LATEST) // hop_samples + 1) for start, end in spans]
    return np.array([scores[first:last].max(axis=0) for first, last in hops])
