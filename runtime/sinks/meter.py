"""Level and scores on stderr, for a person at a terminal."""

import math
import sys
from typing import Any

from runtime.audio.hops import Samples
from runtime.journal import remark
from runtime.sample_rate import SAMPLE_RATE
from runtime.sinks.sink import Sink
from runtime.status import Status

LEVEL_FLOOR = -60.0  # dB of full scale at the left end of the meter
METER_WIDTH = 30


def level(hop: Samples) -> float:
    """Root mean square in dB of full scale, from LEVEL_FLOOR up."""
    power = float(hop.dot(hop)) / len(hop)
    return max(10 * math.log10(power), LEVEL_FLOOR) if 0 < power < math.inf else LEVEL_FLOOR


class Meter(Sink):
    """One line that moves on a terminal, a line per second elsewhere."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._moving = sys.stderr.isatty()
        self._every = 1 if self._moving else max(1, SAMPLE_RATE // status.hop_samples)
        self._hops = 0

    def hop(self, hop: Samples) -> None:
        self._hops += 1
        if self._hops % self._every:
            return
        decibels = level(hop)
        filled = round(METER_WIDTH * min(1.0, 1 - decibels / LEVEL_FLOOR))
        shown = "  ".join(f"{keyword} {score:.2f}" for ear in self._status.ears
                          for keyword, score in zip(ear.keywords, ear.scores, strict=True))
        line = f"[{'#' * filled:{METER_WIDTH}}] {decibels:4.0f} dB  {shown}"
        start, end = ("\r", "\x1b[K") if self._moving else ("", "\n")
        remark(f"{start}{line}", end)

    def publish(self, detection: dict[str, Any]) -> None:
        """Leave the line to whoever writes the detection."""
        self.close()

    def close(self) -> None:
        if self._moving:
            remark("\r\x1b[K", "")
