"""Clips in one long stream, as a device hears them: whoever scores a clip has heard minutes before it."""

import numpy as np

from training.data.noises import low_noise
from training.data.recordings import SAMPLE_RATE

GAP = 3 * SAMPLE_RATE // 2  # after each clip: longer than the attention remembers
LATEST = SAMPLE_RATE // 2  # after a clip's end a score still counts as the clip's


def joined(clips: list[np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips in an order of their own, each with low noise after it → the stream (samples,), and where each clip starts
    and ends in it: (clips, 2), in samples, in the order of `clips`."""
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
    found = []
    for start, end in spans:
        first, last = start // hop_samples, (end + LATEST) // hop_samples
        found.append(scores[first : last + 1].max(axis=0))
    return np.array(found)
