"""How high the score of an event came, which is known when it is over."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Event:
    """A keyword was said.

    time: seconds of audio from the start to the end of the hop that detected it. score: of that hop. peak: the highest
    score so far, the event's when it is over: at the first hop below the threshold, at the latest a refractory time
    after it began.
    """

    keyword: str
    time: float
    score: float
    peak: float


class Peaks:
    """The events of one bundle that are not over yet."""

    def __init__(self, keywords: Sequence[str], refractory_hops: int) -> None:
        self._keywords = keywords
        self._longest = refractory_hops
        self._open: dict[int, tuple[Event, int]] = {}  # by keyword, with the hops left

    def step(
        self, scores: Sequence[float], thresholds: Sequence[float], fired: Sequence[int], time: float
    ) -> tuple[list[Event], list[Event]]:
        """A hop's scores, and the keywords that have an event in it → events that begin, and that are over."""
        over = []
        for keyword, (event, left) in list(self._open.items()):
            if scores[keyword] < thresholds[keyword] or left == 0 or keyword in fired:
                del self._open[keyword]
                over.append(event)
            else:
                event.peak = max(event.peak, scores[keyword])
                self._open[keyword] = event, left - 1
        begun = []
        for keyword in fired:
            begun.append(Event(self._keywords[keyword], time, scores[keyword], scores[keyword]))
            self._open[keyword] = begun[-1], self._longest
        return begun, over

    def end(self) -> list[Event]:
        """The audio has ended, or something of it is missing: all events are over."""
        over = [event for event, _ in self._open.values()]
        self._open.clear()
        return over
