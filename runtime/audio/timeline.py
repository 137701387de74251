"""How much audio is missing between two blocks of a microphone, told from when blocks arrive.

No sound system says how much it lost. But blocks that arrive in real time cannot stay late: after a stall the waiting
blocks come in a burst and catch up, unless some of them were lost. So audio that stays late by more than a scheduler
explains, though nothing is waiting any more, is audio that went missing.
"""

TOLERANCE = 0.06  # seconds of lateness that are no loss; less than a hop
SETTLE = 0.5  # seconds for which blocks have to stay late
START = 1.0  # seconds in which the first blocks show how early blocks can come
DRIFT = 500e-6  # a sound card's clock against ours; bad ones are 200 ppm off


class Timeline:
    """The audio of one open microphone against the monotonic clock.

    A block's lateness is its arrival minus the time at which it was due, if nothing was lost and it came as early as
    the earliest did.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._frames = 0  # heard and lost
        self._start: float | None = None  # arrival of the first block
        self._due = 0.0  # when a block that ends after 0 frames is due at the earliest
        self._late_since: float | None = None
        self._least_late = 0.0

    def heard(self, arrival: float, frames: int, lost: int = 0) -> int:
        """Note a block of `frames` that came at `arrival` (monotonic seconds) after `lost` ones that are known of.

        Returns how many more frames were lost, which shows up to SETTLE seconds after it happened.
        """
        self._frames += frames + lost
        offset = arrival - self._frames / self._rate
        if self._start is None:
            self._start, self._due = arrival, offset
        lateness = offset - self._due
        if arrival - self._start < START:
            self._due = min(self._due, offset)
            return 0
        if lateness <= TOLERANCE:
            self._late_since = None
            step = DRIFT * frames / self._rate
            self._due += max(-step, min(lateness, step))
            return 0
        if self._late_since is None:
            self._late_since, self._least_late = arrival, lateness
        self._least_late = min(self._least_late, lateness)
        if arrival - self._late_since < SETTLE:
            return 0
        self._late_since = None
        missing = round(self._least_late * self._rate)
        self._frames += missing
        return missing
