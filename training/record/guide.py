"""A guided recording: what to do is said on the terminal, what the microphone hears is shown, each take is judged."""

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.data import recordings
from training.data.recordings import DataError
from training.record import places, takes

MOST_SILENT = 3  # times that nothing was heard, until the next part begins
BAR, QUIETEST = 30, -60.0  # width of the meter, dB at its left end
Listen = Callable[[], Iterator[np.ndarray]]


class Part(NamedTuple):
    name: str
    share: int  # of all takes
    how: str


PARTS = (
    Part("near", 7, "at arm's length, as you would say it to somebody"),
    Part("far", 5, "from across the room, three metres or more, and not always towards the microphone"),
    Part("quiet", 4, "quietly, as at night"),
    Part("quick", 4, "quickly, in passing"),
)


class Stopped(Exception):
    """Whoever records has had enough."""


def plan(n: int) -> list[tuple[Part, range]]:
    """n takes → the numbers of those of each part."""
    shares = np.cumsum([part.share for part in PARTS])
    ends = [round(n * share / shares[-1]) for share in shares]
    return [(part, range(*ends)) for part, ends in zip(PARTS, itertools.pairwise([0, *ends]), strict=True)]


def record(listen: Listen, word: str, speaker: str, n: int, out: Path) -> None:
    """n takes of a word by one speaker, but for those that are there. Raises DataError, OSError, Stopped."""
    for part, numbers in plan(n):
        missing = [path for i in numbers if not (path := places.path(out, word, speaker, i)).exists()]
        if missing:
            print(f"\n{part.name}, takes: {len(missing)}. Say {word!r} {part.how}; pause after each.")
            ask("Enter when you are there, then wait a second: ")
            record_part(listen, missing)


def record_part(listen: Listen, missing: list[Path]) -> None:
    """A take into each file; fewer where whoever records goes on to the next part."""
    made = silent = 0
    for take in takes.takes(metered(listen())):
        if take is None:
            silent += 1
            show(f"heard nothing for {takes.PATIENCE} s: is the microphone the right one, and turned up?")
            if silent == MOST_SILENT:
                return
            continue
        if take.fault:
            show(f"left out, {take.fault}")
            continue
        silent = 0
        places.keep(missing[made], take.audio)
        made += 1
        show(f"{made} of {len(missing)}")
        if made == len(missing):
            return


def record_talk(listen: Listen, word: str, speaker: str, seconds: float, out: Path) -> None:
    """Pieces of talk until there are so many seconds. Raises DataError, OSError, Stopped."""
    n = math.ceil(seconds * recordings.SAMPLE_RATE / places.PIECE)
    missing = [path for i in range(n) if not (path := places.path(out, word, speaker, i, talk=True)).exists()]
    if not missing:
        return
    left = len(missing) * places.PIECE // recordings.SAMPLE_RATE
    print(f"\ntalk: {left} seconds about anything, what you did today, what you see; only never {word!r}.")
    ask("Enter to begin: ")
    made = silent = 0
    blocks, heard = metered(listen()), np.zeros(0, np.float32)
    while made < len(missing):
        while len(heard) < places.PIECE:
            heard = np.concatenate([heard, next(blocks)])
        piece, heard = heard[: places.PIECE], heard[places.PIECE :]
        fault = places.talk_fault(piece)
        if fault:
            silent += 1
            show(f"left out, {fault}")
            if silent == MOST_SILENT:
                return
            continue
        silent = 0
        places.keep(missing[made], piece)
        made += 1
        show(f"{(len(missing) - made) * places.PIECE // recordings.SAMPLE_RATE} seconds to go")


def ask(question: str) -> str:
    """A line from the keyboard, "" where there is none. Raises Stopped for "q"."""
    try:
        answer = input(question).strip()
    except EOFError:
        print()
        return ""
    if answer.lower() == "q":
        raise Stopped
    return answer


def show(line: str) -> None:
    """In the place of the meter."""
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{start}  {line}", flush=True)


def metered(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same, and a bar on the terminal that shows how loud they are."""
    for block in blocks:
        if sys.stderr.isatty() and len(block):
            power = float(np.square(block).mean())
            level = max(QUIETEST, 10 * math.log10(power)) if power else QUIETEST
            filled = round(BAR * (1 - level / QUIETEST))
            loud = "  too loud" if np.abs(block).max() >= takes.CLIPPED else ""
            print(f"\r[{'#' * filled:{BAR}}] {level:4.0f} dB{loud}\x1b[K\r", end="", file=sys.stderr, flush=True)
        yield block
    raise DataError("the microphone has ended")
