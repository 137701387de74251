"""Where in a stream of audio something is said, and whether a take of it can be used. numpy only."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from training.data.recordings import SAMPLE_RATE

FRAME = 320  # 20 ms
A_SECOND = SAMPLE_RATE // FRAME  # frames
FLOOR = -70.0  # dB of full scale: rooms that are quieter count as that
LOUDER = 12.0  # dB above the room: something is said
ONSET = 3  # frames so loud in a row
PAUSE = A_SECOND // 2  # quiet frames that end what is said
MARGIN = 3 * A_SECOND // 10  # frames that are kept before and after
AT_ONCE = 2  # frames of the room that a whole take has before and after what is said, at the least
SHORTEST, LONGEST = 0.2, 4.0  # seconds that are said
CLIPPED, MOST_CLIPPED = 0.99, 8  # samples beyond it, of full scale, that a take may have
PATIENCE = 12  # seconds
ROOM = 3 * A_SECOND  # frames that the room is judged by
TOO_LOUD = "clipped: too loud for the microphone; move away, or turn it down"


class Take(NamedTuple):
    """Something that was said, with a little of the room around it."""

    audio: np.ndarray  # (n,) float32 in −1…1
    start: float  # seconds into the stream
    seconds: float  # that are said
    fault: str  # "" for a good one, else why it cannot be used and what to do


def levels(audio: np.ndarray) -> np.ndarray:
    """dB of full scale of each whole 20 ms, from FLOOR up."""
    frames = audio[: len(audio) // FRAME * FRAME].reshape(-1, FRAME)
    return 10 * np.log10(np.maximum(np.square(frames, dtype=np.float64).mean(axis=1), 10 ** (FLOOR / 10)))


def room(audio: np.ndarray) -> float:
    """dB of full scale that a recording's room has: its quietest tenth, or far below its loudest if nearly all of it is
    speech."""
    each = levels(audio)
    if not len(each):
        return FLOOR
    quiet, loud = float(np.quantile(each, 0.1)), float(each.max())
    return quiet if loud - quiet < LOUDER else min(quiet, loud - 2 * LOUDER)


def framed(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) - len(rest) % FRAME
        yield from rest[:whole].reshape(-1, FRAME)
        rest = rest[whole:]


def takes(blocks: Iterable[np.ndarray], quiet: float | None = None) -> Iterator[Take | None]:
    """What is said in a stream, each as soon as half a second of quiet follows it; None after each PATIENCE seconds in
    which nothing is said.

    blocks: float32 at 16 kHz of any lengths. quiet: dB of full scale of the room; None learns it from the stream.
    """
    before: deque[np.ndarray] = deque(maxlen=MARGIN + ONSET)
    heard: deque[float] = deque([quiet] if quiet is not None else [], maxlen=ROOM)
    said: list[np.ndarray] = []  # with the room before it
    loud = pause = index = begin = waited = 0
    for index, frame in enumerate(framed(blocks), 1):
        level = float(levels(frame)[0])
        floor = quiet if quiet is not None else float(np.quantile(heard, 0.1)) if heard else level
        is_loud = level >= floor + LOUDER
        if not said:
            before.append(frame)
            heard.append(level)
            loud = loud + 1 if is_loud else 0
            waited += 1
            if loud == ONSET:
                said, begin, pause, waited = list(before), index - ONSET, 0, 0
            elif waited == PATIENCE * A_SECOND:
                waited = 0
                yield None
            continue
        said.append(frame)
        pause = 0 if is_loud else pause + 1
        if pause == PAUSE or index - begin > LONGEST * A_SECOND + PAUSE:
            yield take(said, begin, index, pause)
            heard.extend(levels(np.concatenate(said[-PAUSE:])) if pause else levels(np.concatenate(said)))
            before.clear()
            before.extend(said[-pause:] if pause else [])
            said, loud = [], 0
    if said:
        yield take(said, begin, index, pause)


def take(said: list[np.ndarray], begin: int, end: int, pause: int) -> Take:
    """Frames begin…end of a stream, of which the last `pause` are quiet, and `said` has some more before them."""
    lead = len(said) - (end - begin)
    kept = said[: len(said) - max(0, pause - MARGIN)]
    seconds = (end - begin - pause) / A_SECOND
    audio = np.concatenate(kept)
    return Take(audio, (begin - lead) / A_SECOND, seconds, fault(audio, seconds, lead, pause))


def fault(audio: np.ndarray, seconds: float, lead: int, trail: int) -> str:
    """Why a take cannot be used. lead, trail: frames of the room before and after what is said."""
    if int((np.abs(audio) >= CLIPPED).sum()) > MOST_CLIPPED:
        return TOO_LOUD
    if seconds > LONGEST:
        return f"longer than {LONGEST:.0f} s: say the word alone, and pause after it"
    if lead < AT_ONCE:
        return "its beginning is cut off: pause before the word"
    if trail < AT_ONCE:
        return "its end is cut off: pause after the word"
    if seconds < SHORTEST:
        return "too short for a word: a knock, or too far away"
    return ""
