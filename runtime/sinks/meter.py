"""Level and scores on stderr, for a person at a terminal."""

import math
import sys

from runtime.audio.hops import SAMPLE_RATE, Samples
from runtime.journal import remark

LEVEL_FLOOR = -60.0  # dB of full scale at the left end of the meter
METER_WIDTH = 30


def level(hop: Samples) -> float:
    """Root mean square in dB of full scale, from LEVEL_FLOOR up."""
    power = float(hop.dot(hop)) / len(hop)
    return max(10 * math.log10(power), LEVEL_FLOOR) if 0 < power < math.inf else LEVEL_FLOOR


class Meter:
    """One line that moves on a terminal, a line per second elsewhere."""

    def __init__(self, hop_samples: int) -> None:
        self._moving = sys.stderr.isatty()
        self._every = 1 if self._moving else max(1, SAMPLE_RATE // hop_samples)
        self._hops = 0

    def show(self, hop: Samples, scores: list[tuple[str, float]]) -> None:
        self._hops += 1
        if self._hops % self._every:
            return
        decibels = level(hop)
        filled = round(METER_WIDTH * min(1.0, 1 - decibels / LEVEL_FLOOR))
        shown = "  ".join(f"{keyword} {score:.2f}" for keyword, score in scores)
        line = f"[{'#' * filled:{METER_WIDTH}}] {decibels:4.0f} dB  {shown}"
        start, end = ("\r", "\x1b[K") if self._moving else ("", "\n")
        remark(f"{start}{line}", end)

    def clear(self) -> None:
        """Leave the line to whoever writes next."""
        if self._moving:
            remark("\r\x1b[K", "")
