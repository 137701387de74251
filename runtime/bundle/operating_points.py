"""Operating points: for each keyword some thresholds, with the false accepts an hour and the misses measured there."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from runtime.errors import OptionsError

MOST_POINTS = 32  # of one keyword
LOWEST_THRESHOLD = 0.001  # a score is always above 0, and one that stays high is told once


class OperatingPoint(NamedTuple):
    """What was measured at one threshold, on recordings that the model was not trained on."""

    threshold: float
    false_accepts_per_hour: float  # of all kinds of speech together
    worst_kind_per_hour: float  # of the kind with the most
    misses: float  # share of the clips of the keyword, 0…1
    misses_10_db: float  # the same in noise, at a signal-to-noise ratio of 10 dB


FIELDS = set(OperatingPoint._fields)


def is_good(curves: Any, keywords: int) -> bool:
    """Whether a manifest's `operating_points` are as the contract has them: a list of points for each keyword."""
    return (
        isinstance(curves, list)
        and len(curves) == keywords
        and all(isinstance(curve, list) and len(curve) <= MOST_POINTS for curve in curves)
        and all(_is_point(point) for curve in curves for point in curve)
    )


def _is_point(point: Any) -> bool:
    if not (isinstance(point, dict) and set(point) == FIELDS):
        return False
    if not all(type(value) in (int, float) and 0 <= value < math.inf for value in point.values()):
        return False
    return LOWEST_THRESHOLD <= point["threshold"] <= 1 and point["misses"] <= 1 and point["misses_10_db"] <= 1


def point_at(curve: Sequence[OperatingPoint], rate: float, keyword: str) -> OperatingPoint:
    """The point with the most false accepts an hour that are not above `rate`: it has the fewest misses.

    Raises OptionsError where there is none.
    """
    if not curve:
        raise OptionsError(
            f"--false-accepts: its bundle has no measured false accepts an hour for {keyword!r}: use --threshold, "
            "or export a newer checkpoint"
        )
    allowed = [point for point in curve if point.false_accepts_per_hour <= rate]
    if not allowed:
        least = min(point.false_accepts_per_hour for point in curve)
        raise OptionsError(
            f"--false-accepts {rate:g}: the least measured for {keyword!r} is {least:g} an hour: ask for at "
            "least that, or use --threshold"
        )
    return max(allowed, key=lambda point: (point.false_accepts_per_hour, -point.threshold))
