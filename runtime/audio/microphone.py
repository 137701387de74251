"""A microphone that may be left running: its audio → hops in true time, gaps where audio was lost, back after a loss.

PortAudio calls back from a thread of its own into a bounded ring, so that a late reader loses nothing at first and the
oldest audio at last, and knows how much. A device that ends, gives nothing, or gives nothing but digital zeros for long
is closed and opened again, with all of PortAudio: only a fresh one sees what was plugged in since.
"""

import contextlib
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition
from typing import NamedTuple

import numpy as np

from runtime.audio import devices
from runtime.audio.hops import Format, Rechunker, Samples, decode, mix, resampler
from runtime.audio.timeline import Timeline
from runtime.errors import AudioError
from runtime.sample_rate import SAMPLE_RATE

RING_SECONDS = 8.0  # of audio that a busy or stopped process may be late
POLL_SECONDS = 0.25  # how often somebody who waits looks up
STALL_POLLS = 8  # so often nothing in a row: the device is gone. A silent one gives zeros.
FIRST_RETRY, LAST_RETRY = 0.25, 2.0  # seconds before opening again; each failure doubles it
PROBE_SECONDS = 3.0
LONGEST_SILENCE = 3600.0  # seconds; each time that opening a silent device again did not help doubles the patience

Tell = Callable[..., None]  # tell(event, **fields)


class Gap(NamedTuple):
    """So many samples at 16 kHz are missing between the hop before and the hop after."""

    samples: int
    reason: str


class Block(NamedTuple):
    """What PortAudio gave at once. arrival: monotonic seconds. lost: frames the ring dropped just before it."""

    data: bytes
    frames: int
    arrival: float
    overflowed: bool
    lost: int


class Ring:
    """Blocks between PortAudio's thread and ours. When it is full the oldest goes, and is counted."""

    def __init__(self, most_frames: int) -> None:
        self._most = most_frames
        self._frames = self._lost = 0
        self._overflowed = False
        self._blocks: deque[tuple[bytes, int, float]] = deque()
        self._filled = Condition()

    def put(self, data: bytes, frames: int, overflowed: bool) -> None:
        with self._filled:
            self._blocks.append((data, frames, time.monotonic()))
            self._frames += frames
            self._overflowed |= overflowed
            while self._frames > self._most:
                dropped = self._blocks.popleft()[1]
                self._frames -= dropped
                self._lost += dropped
            self._filled.notify()

    def take(self, seconds: float) -> Block | None:
        """The oldest block, or None when none comes within so many seconds."""
        with self._filled:
            if not self._blocks:
                self._filled.wait(seconds)
            if not self._blocks:
                return None
            data, frames, arrival = self._blocks.popleft()
            block = Block(data, frames, arrival, self._overflowed, self._lost)
            self._frames -= frames
            self._lost, self._overflowed = 0, False
            return block


class Recording:
    """One device, open and recording into a ring. Raises AudioError."""

    def __init__(self, wanted: str | None, hop_samples: int) -> None:
        self._overflow = devices.import_pyaudio().paInputOverflow
        self._opened = devices.open_device(wanted, hop_samples, self._heard)
        self.device, self.rate, self.channels = self._opened[:3]
        self.ring = Ring(round(RING_SECONDS * self.rate))
        self._frame_bytes = 2 * self.channels
        try:
            self._opened.stream.start_stream()
        except OSError as error:
            self._opened.close()
            raise AudioError(f"microphone {self.device.name!r}: cannot be started ({error}): "
                             "end what else records from it, or choose another of --list-devices") from None

    def _heard(self, data: bytes | None, frames: int, times: object, status: int) -> tuple[None, int]:
        data = data or b""
        self.ring.put(data, len(data) // self._frame_bytes, bool(status & self._overflow))
        return None, 0  # paContinue

    @property
    def is_active(self) -> bool:
        """False when PortAudio gave the device up."""
        try:
            return bool(self._opened.stream.is_active())
        except OSError:
            return False

    def close(self) -> None:
        """Stop recording and let go of the device."""
        self._opened.close()


class Probe:
    """Tries to open a device in a process of its own.

    Every try leaks 12 KB of PortAudio's, which at a try every two seconds is half a gigabyte a day, and a sound
    server that hangs holds it up for as long: a process takes both with it. It cannot be a fork, which PulseAudio's
    library refuses to work in. reason: why the device cannot be opened, "" if it can.
    """

    def __init__(self, wanted: str | None, hop_samples: int) -> None:
        self.reason = f"the sound system did not answer for {PROBE_SECONDS:.0f} s"
        self._end = time.monotonic() + PROBE_SECONDS
        command = [sys.executable, "-P", devices.__file__, str(hop_samples), *([] if wanted is None else [wanted])]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        self._output = self._process.stdout

    def is_done(self, seconds: float) -> bool:
        """Wait so long for an answer."""
        if select.select([self._output], [], [], seconds)[0]:
            answer = self._output.readline(1000).decode(errors="replace").strip()
            self.reason = "" if answer == devices.OPENED else answer or "the sound system crashed"
            return True
        return time.monotonic() > self._end

    def close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if not self.reason:  # let it close the device, which may be one for a single user
                self._process.wait(0.5)
        self._process.kill()
        self._process.wait()
        self._output.close()


class Cutter:
    """Samples at the device's rate → hops at 16 kHz, until a gap makes it start afresh. Raises AudioError."""

    def __init__(self, rate: int, hop_samples: int, source: str) -> None:
        self._rate, self._source = rate, source
        self._chunks = Rechunker(hop_samples)
        self.restart()

    def restart(self) -> None:
        self._chunks.restart()
        self._stream = None if self._rate == SAMPLE_RATE else resampler(self._rate, self._source)

    def push(self, samples: Samples) -> Iterator[Samples]:
        if self._stream is not None:
            samples = self._stream.resample_chunk(samples)
        return self._chunks.push(samples)


class Microphone:
    """Hops from a device for as long as the process lives.

    device: its index, part of its name, or None for the system's default. tell(event, **fields) is called with
    microphone_lost, microphone_back, microphone_silent, microphone_heard and overflow. silence: seconds of digital
    zeros after which the device is opened again. wait: a device that is not there yet is a loss, and no AudioError.
    """

    def __init__(self, device: str | None, hop_samples: int, tell: Tell, silence: float = 60.0,
                 wait: bool = False) -> None:
        self._hop_samples = hop_samples
        self._tell = tell
        self._recording: Recording | None = None
        self._position = 0  # at 16 kHz: all hops given and gaps told
        self._heard_at: float | None = None  # monotonic time up to which the stream's time is known
        self._lost_at: float | None = None
        self.use(device, silence)
        try:
            self._open()
        except AudioError as error:
            if not wait:
                raise
            self._lost(str(error))

    def use(self, device: str | None, silence: float) -> None:
        """Record from another device from now on."""
        self._wanted = device
        self._silence = silence
        self._patience = silence
        self._silent_frames = 0
        self._is_silent = False
        self._close()

    @property
    def name(self) -> str:
        """Of the device, or what was asked for while it is not there."""
        return self._recording.device.name if self._recording else self._wanted or "default"

    def close(self) -> None:
        self._close()

    def stream(self) -> Iterator[Samples | Gap | None]:
        """Hops of float32 (hop_samples,) and the gaps between them; None when nothing came for a quarter second."""
        while True:
            yield from self._reconnected()
            yield from self._record()

    def _open(self) -> None:
        try:
            self._recording = Recording(self._wanted, self._hop_samples)
        except OSError as error:
            raise AudioError(f"microphone {self._wanted or 'default'!r}: cannot be opened ({error}): "
                             "is the sound system in order? arecord -l shows what it has") from None
        if self._wanted is not None and self._wanted.isdecimal():
            self._wanted = self._recording.device.name  # numbers change when something is plugged in

    def _close(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.close()

    def _lost(self, reason: str) -> None:
        self._close()
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            self._tell("microphone_lost", device=self._wanted or "default", reason=reason)

    def _reconnected(self) -> Iterator[None]:
        """Until the device is open."""
        delay = FIRST_RETRY
        while self._recording is None:
            again = time.monotonic() + delay
            while (left := again - time.monotonic()) > 0:
                time.sleep(min(left, POLL_SECONDS))
                yield None
            delay = min(2 * delay, LAST_RETRY)
            try:
                probe = Probe(self._wanted, self._hop_samples)
            except OSError:  # no process or no file to be had just now
                continue
            try:
                while not probe.is_done(POLL_SECONDS):
                    yield None
                probe.close()
                if probe.reason:
                    raise AudioError(probe.reason)
                self._open()
            except AudioError as error:
                self._lost(str(error))
            finally:
                probe.close()

    def _record(self) -> Iterator[Samples | Gap | None]:
        """Until the device is lost, or another is wanted."""
        recording = self._recording
        assert recording is not None
        rate = recording.rate
        form = Format(rate, recording.channels, 2, False)
        cutter = Cutter(rate, self._hop_samples, f"microphone {recording.device.name!r}")
        timeline = Timeline(rate)
        start: int | None = None  # position of this recording's first sample
        frames = polls = 0
        while self._recording is recording:
            block = recording.ring.take(POLL_SECONDS)
            if block is None:
                polls += 1
                if not recording.is_active:
                    self._lost("it ended")
                elif polls == STALL_POLLS:
                    self._lost(f"it gave nothing for {POLL_SECONDS * STALL_POLLS:.0f} s")
                yield None
                continue
            polls = 0
            if start is None:
                start, gap = self._begin(block, rate)
                if gap:
                    yield Gap(gap, "reconnected")
            lost = block.lost + timeline.heard(block.arrival, block.frames, block.lost)
            self._heard_at = block.arrival
            samples = mix(decode(block.data, form))
            if block.overflowed:
                self._tell("overflow")
            if 0 < lost <= self._hop_samples * rate // SAMPLE_RATE:  # the model hears so short a gap as silence
                self._tell("gap", lost_s=round(lost / rate, 3), reason=_reason(block), filled=True)
                samples = np.concatenate((np.zeros(lost, np.float32), samples))
            elif lost:
                cutter.restart()
                missing = start + round((frames + lost) * SAMPLE_RATE / rate) - self._position
                self._position += missing
                yield Gap(missing, _reason(block))
            frames += lost + block.frames
            for hop in cutter.push(samples):
                self._position += len(hop)
                yield hop
            self._watch_silence(samples, recording)

    def _begin(self, block: Block, rate: int) -> tuple[int, int]:
        """Place a new recording's first block in the stream's time → its position and the gap before it."""
        if self._lost_at is not None:
            self._tell("microphone_back", device=self._recording and self._recording.device.name,
                       gone_s=round(block.arrival - self._lost_at, 2))
            self._lost_at = None
        gap = 0
        if self._heard_at is not None:
            gap = max(0, round((block.arrival - self._heard_at) * SAMPLE_RATE) - block.frames * SAMPLE_RATE // rate)
        self._position += gap
        return self._position, gap

    def _watch_silence(self, samples: Samples, recording: Recording) -> None:
        """Noise is never exactly zero: a device that gives nothing else is muted, or broken."""
        if samples.any():
            if self._is_silent:
                self._tell("microphone_heard", device=recording.device.name)
            self._silent_frames, self._is_silent = 0, False
            self._patience = self._silence
            return
        self._silent_frames += len(samples)
        if self._silent_frames < self._patience * recording.rate:
            return
        if not self._is_silent:
            self._tell("microphone_silent", device=recording.device.name, seconds=round(self._patience, 1))
        self._silent_frames, self._is_silent = 0, True
        self._patience = min(2 * self._patience, max(LONGEST_SILENCE, self._silence))
        self._close()  # a fresh one may hear again; a muted one does no worse


def _reason(block: Block) -> str:
    return "reader too late" if block.lost else "overflow" if block.overflowed else "audio missing"
