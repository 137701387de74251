"""Scores → events."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Detector:
    """Tells when a keyword was said: once for each time, however long its score stays high.

    An event is the first hop whose score is ≥ the threshold when none of the `refractory_hops` hops before it was.
    Keywords do not influence each other. A score that is not a number is below every threshold.

    thresholds: one per keyword. refractory_hops: at least 1. Raises ValueError otherwise.
    """

    def __init__(self, thresholds: Sequence[float], refractory_hops: int) -> None:
        if len(thresholds) < 1 or refractory_hops < 1:
            raise ValueError("a detector needs at least one threshold and one refractory hop")
        self.thresholds = thresholds
        self._refractory_hops = refractory_hops
        self.reset()

    def reset(self) -> None:
        """Forget the stream: the next hop may be an event whatever came before."""
        self._below = [self._refractory_hops] * len(self._thresholds)  # hops since the score was last high

    def skip(self, hops: int) -> None:
        """Audio of so many hops is missing; it had no keyword in it, as far as anybody knows."""
        self._below = [below + hops for below in self._below]

    def follow(self, other: "Detector") -> None:
        """Take over the stream of another detector of the same keywords."""
        self._below = list(other._below)

    @property
    def thresholds(self) -> list[float]:
        """One per keyword. May be set at any time."""
        return list(self._thresholds)

    @thresholds.setter
    def thresholds(self, thresholds: Sequence[float]) -> None:
        # Scores are float32: 0.7 as float32 is a little below 0.7, and has to reach it all the same.
        self._thresholds = [float(np.float32(threshold)) for threshold in thresholds]

    def step(self, scores: NDArray[np.float32]) -> list[int]:
        """Scores of one hop, (n_keywords,) → indices of the keywords that have an event in this hop.

        Raises ValueError when the number of scores is not the number of thresholds.
        """
        events = []
        below = self._below
        for keyword, (score, threshold) in enumerate(zip(scores.tolist(), self._thresholds, strict=True)):
            if score >= threshold:
                if below[keyword] >= self._refractory_hops:
                    events.append(keyword)
                below[keyword] = 0
            else:
                below[keyword] += 1
        return events
