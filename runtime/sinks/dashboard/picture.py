"""The last seconds of audio as a page shows them: level, mel picture, scores."""

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.audio.hops import Samples
from runtime.sample_rate import SAMPLE_RATE
from runtime.sinks.meter import level

SHOWN_SECONDS = 10.0
PEAKS = 8  # of the waveform, per hop
DETECTIONS = 20

# The front end that the models have inside (the README's contract), for the picture only.
N_FFT, FRAME_STEP, MELS, FLOOR = 400, 160, 40, 1e-9


def mel_weights() -> NDArray[np.float32]:
    """HTK triangles, (N_FFT // 2 + 1, MELS)."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * math.log10(1 + 8000 / 700), MELS + 2) / 2595) - 1)
    bins = np.linspace(0, 8000, N_FFT // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(samples: Samples, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) → (frames, MELS): natural logarithm of the energy of 25 ms every 10 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[::FRAME_STEP]
    spectrum = np.fft.rfft(frames * np.hanning(N_FFT + 1)[:-1].astype(np.float32))
    return np.log(np.maximum((np.abs(spectrum) ** 2).astype(np.float32) @ weights, FLOOR))


@dataclass
class _Hop:
    number: int
    time_s: float
    samples: Samples  # with N_FFT - FRAME_STEP of the hop before
    scores: list[float]
    shown: dict[str, Any] | None = None  # once somebody has asked for it


class Shown:
    """What the page may ask for: the last seconds, kept by the listener's thread and read by the server's."""

    def __init__(self, hop_samples: int) -> None:
        self._tail = np.zeros(N_FFT - FRAME_STEP, np.float32)
        self._weights: NDArray[np.float32] | None = None
        self._lock = threading.Lock()
        self._hops: deque[_Hop] = deque(maxlen=math.ceil(SHOWN_SECONDS * SAMPLE_RATE / hop_samples))
        self._number = 0
        self.detections: deque[dict[str, Any]] = deque(maxlen=DETECTIONS)

    def hop(self, time_s: float, hop: Samples, scores: list[float]) -> None:
        """Note a hop. Cheap, as it is done for every one."""
        with self._lock:
            self._number += 1
            self._hops.append(_Hop(self._number, time_s, np.concatenate((self._tail, hop)), scores))
            self._tail = self._hops[-1].samples[-len(self._tail):]

    def after(self, number: int) -> dict[str, Any]:
        """All hops after that one, with their pictures: bytes 0…255 of 40 mels per frame, as a hexadecimal text."""
        with self._lock:
            last = self._number
            number = number if number <= last else 0  # above: of another run
            hops = [hop for hop in self._hops if hop.number > number]
        for hop in hops:
            hop.shown = hop.shown or self._show(hop)  # once: there may be more than one who looks
        return {"last": last, "hops": [hop.shown for hop in hops]}

    def _show(self, hop: _Hop) -> dict[str, Any]:
        if self._weights is None:
            self._weights = mel_weights()
        heights = (log_mel(np.nan_to_num(hop.samples), self._weights) + 14) * (255 / 20)  # -14…6 is what rooms give
        picture = np.clip(heights, 0, 255).astype(np.uint8)
        audio = hop.samples[len(self._tail):]
        peaks = [round(float(np.abs(part).max()), 3) for part in np.array_split(audio, PEAKS)]
        return {"time_s": round(hop.time_s, 3), "level": round(level(audio), 1), "peaks": peaks,
                "scores": [round(score, 4) for score in hop.scores], "mel": picture.tobytes().hex()}
