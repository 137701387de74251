"""What happened, as lines on standard output: detections, and events that are no detections.

Any thread may post an event; lines are written by the main thread alone, so that they never mix and an output that
cannot be written is noticed in one place. Every event is counted. An event that comes again and again is written a
few times and then once a second, and its "count" tells how often it happened.
"""

import json
import os
import sys
import threading
from collections import Counter, deque
from typing import Any

from runtime.credit import Credit

BURST = 5  # lines of one event at once; then one a second
WAITING = 256  # events; more can only be waiting when standard output blocks


class Journal:
    """time_s: the stream's time, kept by whoever reads the stream. counts: events by their name."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.counts: Counter[str] = Counter()
        self._waiting: deque[dict[str, Any]] = deque(maxlen=WAITING)
        self._credit = Credit(BURST)  # lines that may be written
        self._lock = threading.Lock()

    def post(self, event: str, **fields: Any) -> None:
        """Count an event and have it written by the next `flush`. Never waits for the output; for any thread."""
        with self._lock:
            self.counts[event] += 1
            if self._credit.take(event):
                line = {"event": event, "time_s": round(self.time_s, 3), **fields, "count": self.counts[event]}
                self._waiting.append(line)

    def flush(self) -> None:
        """Write the waiting events. For the main thread; raises OSError when standard output cannot be written."""
        while self._waiting:
            write(self._waiting.popleft())


def remark(text: str, end: str = "\n") -> None:
    """Tell a person at standard error. When nobody reads it any more, it is lost, and nothing else is."""
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except OSError:  # as of a pipe whose reader has gone; Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def write(line: dict[str, Any]) -> None:
    """One line, at once. Raises OSError."""
    print(form(line), flush=True)


def as_json(line: dict[str, Any]) -> str:
    return json.dumps(line)


def as_text(line: dict[str, Any]) -> str:
    """For a person at a terminal."""
    fields = dict(line)
    time_s = f"{fields.pop('time_s'):8.2f} s  "
    event = fields.pop("event", None)
    if event == "over":
        fields = fields["detection"]
        return f"{time_s}{fields['keyword']}: over, highest score {fields['peak']:.3f}"
    if event is None:
        event, score = fields.pop("keyword"), fields.pop("score")
        fields = {"score": f"{score:.3f}", **fields}
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in fields.items())
    text = f"{time_s}{event}: {told}"
    return "".join(c if c.isprintable() else "?" for c in text)  # names in it may be a stranger's


form = as_json


def choose_form(always_json: bool) -> None:
    """JSON for programs; text where standard output is a terminal, unless JSON is wanted there too."""
    global form
    form = as_text if not always_json and sys.stdout is not None and sys.stdout.isatty() else as_json
