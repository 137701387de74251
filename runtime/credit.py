"""What may happen a few times at once, and then once a second."""

import time
from collections.abc import Hashable


class Credit:
    """For each key apart: `burst` at once, and one more for every second that passes. Not for several threads at once.

    Of more than `most_keys`, the one that was taken from longest ago is forgotten.
    """

    def __init__(self, burst: int, most_keys: int = 1000) -> None:
        self._burst, self._most_keys = burst, most_keys
        self._left: dict[Hashable, tuple[float, float]] = {}  # and as of when

    def left(self, key: Hashable) -> bool:
        """Whether there is some to take."""
        return self._now(key) >= 1

    def take(self, key: Hashable) -> bool:
        """Take one, if there is one left."""
        left = self._now(key)
        self._left.pop(key, None)  # to the end of the line
        self._left[key] = (left - 1 if left >= 1 else left, time.monotonic())
        if len(self._left) > self._most_keys:
            del self._left[next(iter(self._left))]
        return left >= 1

    def _now(self, key: Hashable) -> float:
        left, since = self._left.get(key, (self._burst, 0.0))
        return min(self._burst, left + time.monotonic() - since)
