"""Two recordings of a word in one: the first goes on as the second, at the same place of the word.

A few hundred recordings make a hundred times as many, and a model that hears both these and words that are half the
keyword (`windows.nearly`) cannot tell them apart by their joints.
"""

import numpy as np

from training.data.recordings import speech_level, spoken_part

STEP = 160  # samples between two spectra: 10 ms
SPAN = 480  # samples of a spectrum: 30 ms
BANDS, BINS = 20, 6  # of 200 Hz each


def join(first: np.ndarray, second: np.ndarray, samples: int = STEP) -> np.ndarray:
    """One after the other, 10 ms of the one fading into the other."""
    n = min(samples, len(first), len(second))
    ramp = np.linspace(0, 1, n, dtype=np.float32)
    crossing = first[len(first) - n :] * ramp[::-1] + second[:n] * ramp
    return np.concatenate([first[: len(first) - n], crossing, second[n:]])


def two_in_one(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """The word as the first recording begins it and, from `share` of what is spoken there, the second ends it, float32
    at the level of the first."""
    start, end = spoken_part(first)
    at = start + int(share * (end - start))
    on = int(alignment(spectra(first), spectra(second))[at // STEP]) * STEP
    return join(first[:at], second[on:] * (speech_level(first) / max(speech_level(second), 1e-4)))


def spectra(audio: np.ndarray) -> np.ndarray:
    """Log power every 10 ms, without what the whole recording has in common: (1 + samples // 160, 20)."""
    spans = np.lib.stride_tricks.sliding_window_view(np.pad(audio, SPAN // 2), SPAN)[::STEP]
    power = np.square(np.abs(np.fft.rfft(spans * np.hanning(SPAN)))[:, 1 : 1 + BANDS * BINS])
    bands = power.reshape(len(spans), BANDS, BINS).mean(2)
    logs = np.log(bands + bands.max() * 1e-5 + 1e-12)
    return logs - logs.mean(0)


def alignment(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """For each spectrum of the first which one of the second is the same moment of the word: (len(first),), rising.

    Dynamic time warping with slopes from 0 to 2, free at both ends (Sakoe & Chiba 1978).
    """
    costs = np.square(first).sum(1)[:, None] + np.square(second).sum(1) - 2 * first @ second.T
    steps = np.zeros(costs.shape, int)
    total = costs[0]
    for i in range(1, len(costs)):
        before = np.pad(total, (2, 0), constant_values=np.inf)
        ways = np.stack([before[2:], before[1:-1], before[:-2]])
        steps[i] = ways.argmin(0)
        total = costs[i] + ways.min(0)
    path = [int(total.argmin())]
    for step in steps[:0:-1]:
        path.append(path[-1] - int(step[path[-1]]))
    return np.array(path[::-1])
