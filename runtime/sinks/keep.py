"""The audio around detections as WAV files: what a person listens to, and the hard negatives of the next training."""

import os
import re
import threading
import wave
from collections import deque
from collections.abc import Callable
from datetime import datetime
from queue import Full, Queue
from typing import Any

import numpy as np

from runtime.audio.hops import Samples
from runtime.errors import OptionsError
from runtime.sample_rate import SAMPLE_RATE
from runtime.sinks.sink import Sink

AFTER_SECONDS = 0.5
WAITING = 8  # clips that a slow disk may owe
# The number orders them, whatever happens to the clock.
NAME = re.compile(r"(\d{6,})-.*\.wav")


class Keeper(Sink):
    """Keeps the last `seconds` of audio at every detection in a folder of at most `most_bytes`.

    Files are 000042-20261101T120000-happy-0.57.wav; the lowest number is deleted first, and whatever else lies in the
    folder is left alone. post(event, **fields) is called with save_failed and save_dropped, and detection goes on.
    Raises OptionsError when the folder cannot be used.
    """

    def __init__(self, folder: str, seconds: float, most_bytes: float, hop_samples: int,
                 post: Callable[..., None]) -> None:
        self._folder, self._most_bytes, self._post = folder, int(most_bytes), post
        kept = max(1, round(seconds * SAMPLE_RATE / hop_samples))
        if 44 + 2 * kept * hop_samples > self._most_bytes:
            raise OptionsError(f"--save-megabytes {most_bytes / 1e6:g} holds no clip of {seconds:g} s: raise it, "
                               "or lower --save-seconds")
        self._hops: deque[Samples] = deque(maxlen=kept)
        self._after = min(round(AFTER_SECONDS * SAMPLE_RATE / hop_samples), kept)
        self._due: list[tuple[int, dict[str, Any]]] = []  # hops still to come, and the detection
        self._clips: Queue[tuple[list[Samples], dict[str, Any]] | None] = Queue(WAITING)
        try:
            os.makedirs(folder, exist_ok=True)
            for name in os.listdir(folder):
                if name.endswith(".wav.part"):  # of a power cut
                    os.unlink(os.path.join(folder, name))
            self._number = max(self._numbers(), default=0)
        except OSError as error:
            raise OptionsError(f"{folder}: cannot be used ({error.strerror}): "
                               "name a folder that can be written") from None
        self._writer = threading.Thread(target=self._write_all, daemon=True)
        self._writer.start()

    def hop(self, hop: Samples) -> None:
        self._hops.append(hop)
        if not self._due:
            return
        self._due = [(left - 1, detection) for left, detection in self._due]
        while self._due and self._due[0][0] <= 0:
            self._save(self._due.pop(0)[1])

    def gap(self) -> None:
        """What is before a gap does not belong to what is after it."""
        for _, detection in self._due:
            self._save(detection)
        self._due = []
        self._hops.clear()

    def publish(self, detection: dict[str, Any]) -> None:
        """Keep this detection, half a second from now. Returns at once."""
        self._due.append((self._after, detection))

    def finish(self) -> None:
        """Write what is owed."""
        self.gap()
        self._clips.put(None)
        self._writer.join()

    def close(self) -> None:
        """Write what is owed, as long as that takes no more than half a second."""
        self.gap()
        try:
            self._clips.put_nowait(None)
        except Full:
            return
        self._writer.join(0.5)

    def _save(self, detection: dict[str, Any]) -> None:
        try:
            self._clips.put_nowait((list(self._hops), detection))
        except Full:
            self._post("save_dropped", reason="the disk is too slow")

    def _write_all(self) -> None:
        while (clip := self._clips.get()) is not None:
            try:
                self._write(*clip)
            except Exception as error:  # this thread is waited for in the end, so nothing may end it before
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                self._post("save_failed", reason=reason[:200])

    def _write(self, hops: list[Samples], detection: dict[str, Any]) -> None:
        samples = np.concatenate(hops) if hops else np.zeros(0, np.float32)
        pcm = np.clip(np.round(samples * 32768), -32768, 32767).astype("<i2").tobytes()
        self._make_room(44 + len(pcm))
        keyword = re.sub(r"[^\w-]+", "_", detection["keyword"])[:40]
        if not _can_be_a_name(keyword):
            keyword = re.sub(r"[^\w-]+", "_", keyword, flags=re.ASCII)
        self._number += 1
        name = f"{self._number:06}-{datetime.now():%Y%m%dT%H%M%S}-{keyword}-{detection['score']:.2f}.wav"
        path = os.path.join(self._folder, name)
        try:
            with open(f"{path}.part", "wb") as file:
                with wave.open(file, "wb") as clip:
                    clip.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
                    clip.writeframes(pcm)
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{path}.part", path)
        except BaseException:
            if os.path.exists(f"{path}.part"):
                os.unlink(f"{path}.part")
            raise

    def _numbers(self) -> dict[int, str]:
        matches = ((NAME.fullmatch(name), name) for name in os.listdir(self._folder))
        return {int(match[1]): name for match, name in matches if match}

    def _make_room(self, more_bytes: int) -> None:
        """Delete the oldest until `more_bytes` fit."""
        numbers = self._numbers()
        paths = [os.path.join(self._folder, numbers[number]) for number in sorted(numbers)]
        sizes = [os.path.getsize(path) for path in paths]
        total = sum(sizes)
        for path, size in zip(paths, sizes, strict=True):
            if total + more_bytes <= self._most_bytes:
                return
            os.unlink(path)
            total -= size


def _can_be_a_name(text: str) -> bool:
    """Whether this locale has these characters."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True
