"""A microphone for a person who records: blocks of 80 ms at 16 kHz. It ends with an error where a device is lost."""

import contextlib
import os
import queue
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import soxr

from training.data.recordings import SAMPLE_RATE, DataError

BLOCK = 1280  # samples at 16 kHz
PATIENCE = 5.0  # seconds without audio


class Microphone:
    """device: part of its name; None for the system's default. Raises DataError."""

    def __init__(self, device: str | None = None) -> None:
        try:
            import pyaudio
        except ImportError:
            raise DataError("the microphone needs PyAudio: pip install pyaudio; or name files: FROM=folder") from None
        self.blocks: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
        try:
            with quiet():
                self.host = pyaudio.PyAudio()
                about = self.chosen(device)
                self.name, rates = about["name"], (SAMPLE_RATE, round(about["defaultSampleRate"]))
                self.rate = next((rate for rate in rates if self.supports(about, rate, pyaudio.paInt16)), rates[1])
                self.stream = self.host.open(
                    self.rate,
                    1,
                    pyaudio.paInt16,
                    input=True,
                    input_device_index=about["index"],
                    frames_per_buffer=BLOCK * self.rate // SAMPLE_RATE,
                    stream_callback=self.heard,
                )
        except OSError as error:
            raise DataError(f"microphone {device or 'default'!r}: cannot be opened ({error}); see arecord -l") from None

    def heard(self, block: bytes, *_: object) -> tuple[None, int]:
        self.blocks.put(np.frombuffer(block, np.int16))
        return None, 0  # go on

    def chosen(self, device: str | None) -> Any:
        if device is None:
            return self.host.get_default_input_device_info()
        every = [self.host.get_device_info_by_index(i) for i in range(self.host.get_device_count())]
        names = [about for about in every if about["maxInputChannels"] > 0]
        found = [about for about in names if device.lower() in about["name"].lower()]
        if not found:
            known = ", ".join(about["name"] for about in names) or "none"
            raise DataError(f"no microphone {device!r}; there are: {known}")
        return found[0]

    def supports(self, about: Any, rate: int, kind: int) -> bool:
        try:
            return bool(
                self.host.is_format_supported(rate, input_device=about["index"], input_channels=1, input_format=kind)
            )
        except ValueError:
            return False

    def listen(self) -> Iterator[np.ndarray]:
        """What is heard from now on, (n,) float32 in −1…1 at 16 kHz. Raises DataError when nothing comes any more."""
        while not self.blocks.empty():
            self.blocks.get()
        change = soxr.ResampleStream(self.rate, SAMPLE_RATE, 1, dtype="float32")
        while True:
            try:
                heard = self.blocks.get(timeout=PATIENCE).astype(np.float32) / 32768
            except queue.Empty:
                raise DataError(f"microphone {self.name!r}: gives nothing any more; is it still plugged in?") from None
            yield heard if self.rate == SAMPLE_RATE else change.resample_chunk(heard)

    def close(self) -> None:
        with quiet(), contextlib.suppress(OSError):
            self.stream.close()
        self.host.terminate()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the pages that ALSA writes to stderr about devices that are not there."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
