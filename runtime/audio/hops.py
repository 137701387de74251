"""Audio from anywhere → hops: float32 arrays of exactly `hop_samples` at 16 kHz, one channel, -1…1.

Whatever cannot be read raises AudioError with a message of one line that says how to fix it; what can be read only in
part is read as far as it goes and told through `warn`. The last hop is filled up with zeros.
"""

import random
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.audio.devices import list_devices
from runtime.errors import AudioError
from runtime.sample_rate import SAMPLE_RATE

__all__ = ["SAMPLE_RATE", "AudioError", "Rechunker", "cut", "list_devices", "pcm_hops", "quiet_room", "resample",
           "wav_hops"]

BLOCK_BYTES = 1 << 16  # of a WAV file at a time: memory does not grow with the file
LOUDEST = 1e6  # a float sample beyond it is no audio; full scale is 1

Samples = NDArray[np.float32]
Warn = Callable[[str], None]


class Rechunker:
    """Blocks of any lengths → hops of exactly `hop_samples`. What is left over waits for the next block."""

    def __init__(self, hop_samples: int) -> None:
        self._hop_samples = hop_samples
        self.restart()

    def restart(self) -> None:
        """Forget what is left over."""
        self._rest = np.zeros(0, np.float32)

    def push(self, block: Samples) -> Iterator[Samples]:
        """Take all of the block now, and give its hops one by one."""
        rest = np.concatenate((self._rest, block)) if len(self._rest) else block
        whole = len(rest) - len(rest) % self._hop_samples
        self._rest = rest[whole:]
        return (rest[start : start + self._hop_samples] for start in range(0, whole, self._hop_samples))

    def end(self) -> Iterator[Samples]:
        """What is left over, if anything, filled up with zeros."""
        rest = self._rest
        self.restart()
        if len(rest):
            yield np.concatenate((rest, np.zeros(self._hop_samples - len(rest), np.float32)))


def cut(blocks: Iterable[Samples], hop_samples: int) -> Iterator[Samples]:
    """Blocks of any lengths, 16 kHz → hops of exactly `hop_samples`, the last one filled up with zeros."""
    chunks = Rechunker(hop_samples)
    for block in blocks:
        yield from chunks.push(block)
    yield from chunks.end()


def resample(blocks: Iterable[Samples], rate: int, source: str) -> Iterator[Samples]:
    """Blocks at `rate` Hz → blocks at 16 kHz, without seams between them. Raises AudioError without soxr."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    stream = resampler(rate, source)
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def resampler(rate: int, source: str) -> Any:
    """A soxr stream from `rate` Hz to 16 kHz, one channel. Raises AudioError without soxr."""
    try:
        import soxr
    except ImportError:
        raise AudioError(f"{source}: {rate} Hz needs soxr to become 16000 Hz: pip install soxr") from None
    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")


# WAV files. The standard library's `wave` reads neither float nor, before Python 3.12, WAVE_FORMAT_EXTENSIBLE.


class Format(NamedTuple):
    """How samples lie in bytes. Integers of one byte are unsigned, all others signed, all little-endian."""

    rate: int  # Hz
    channels: int
    sample_bytes: int
    is_float: bool


RAW = Format(SAMPLE_RATE, 1, 2, False)  # what standard input carries


def wav_hops(path: str, hop_samples: int, warn: Warn) -> Iterator[Samples]:
    """A WAV file of any rate and channel count, 8 to 32-bit integers or 32 or 64-bit floats → hops. Other formats are
    read by soundfile, where it is installed.

    Channels are averaged. Samples that are no numbers, or absurd ones, become zeros, are counted and told.
    Raises AudioError.
    """
    try:
        with open(path, "rb") as file:
            head = file.peek(12)[:12]
            if len(head) == 12 and (head[:4], head[8:]) != (b"RIFF", b"WAVE"):
                rate, blocks = _other_blocks(file, path)
            else:
                form, size = _wav_header(file, path, warn)
                rate, blocks = form.rate, _wav_blocks(file, path, form, size, warn)
            yield from cut(resample(blocks, rate, path), hop_samples)
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}): name a readable WAV file") from None


def _other_blocks(file: BinaryIO, path: str) -> tuple[int, Iterator[Samples]]:
    """What soundfile reads besides WAV: FLAC, Ogg, MP3 → rate and samples, one channel. Raises AudioError."""
    convert = "convert it, for example: ffmpeg -i IN -ar 16000 -ac 1 OUT.wav"
    try:
        import soundfile
    except ImportError:
        raise AudioError(f"{path}: is not a WAV file: pip install soundfile reads FLAC and Ogg; or {convert}") from None
    try:
        sound = soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, OSError, ValueError):
        raise AudioError(f"{path}: is not a WAV file, and none that soundfile knows: {convert}") from None

    def blocks() -> Iterator[Samples]:
        try:
            for block in sound.blocks(BLOCK_BYTES // 4, dtype="float32", always_2d=True):
                yield mix(np.where(np.abs(block) < LOUDEST, block, np.float32(0)))
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{path}: cannot be read to its end ({error}): {convert}") from None

    return sound.samplerate, blocks()


def quiet_room(hop_samples: int, seconds: float = 0.5) -> Iterator[Samples]:
    """Noise at −60 dB, to be heard before and after a file, as in a stream: models expect that something was heard
    before a word, and a detector that waits for a word to be over detects one at the very end there."""
    noise = random.Random(0)  # numpy's loads what a device has no need of
    for _ in range(-(-round(SAMPLE_RATE * seconds) // hop_samples)):
        yield np.array([noise.gauss(0, 1e-3) for _ in range(hop_samples)], np.float32)


def _wav_header(file: BinaryIO, path: str, warn: Warn) -> tuple[Format, int]:
    """Read up to the samples. Returns their format, and their bytes as promised by the header (-1: to the end)."""
    head = file.read(12)
    if not head:
        raise AudioError(f"{path}: is empty: record it again")
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise AudioError(f"{path}: is not a WAV file: convert it, for example: ffmpeg -i IN -ar 16000 -ac 1 OUT.wav")
    riff_end = 8 + struct.unpack("<I", head[4:8])[0]
    position = 12
    form: Format | None = None
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise AudioError(f"{path}: ends before its samples: record or copy it again")
        name, size = struct.unpack("<4sI", head)
        position += 8
        if name == b"data":
            if form is None:
                raise AudioError(f"{path}: its samples come before their format: convert it with ffmpeg or sox")
            if size == 0 and riff_end <= position:
                # A recorder fills in both sizes when it ends. This one was stopped before, the audio may be there.
                warn(f"{path}: its recorder was cut off and left no length; read to the end of the file")
                return form, -1
            return form, size
        padded = size + size % 2  # chunks start at even places
        if name == b"fmt ":
            form = _wav_format(file.read(min(padded, 64)), path)
            padded -= min(padded, 64)
            position += min(size, 64)
        position += padded
        while padded > 0:
            skipped = len(file.read(min(padded, BLOCK_BYTES)))
            padded -= skipped or padded


def _wav_format(chunk: bytes, path: str) -> Format:
    nonsense = f"{path}: its header makes no sense"
    if len(chunk) < 16:
        raise AudioError(f"{nonsense} (format of {len(chunk)} bytes): record or convert it again")
    tag, channels, rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", chunk[:16])
    if tag == 0xFFFE and len(chunk) >= 26:  # WAVE_FORMAT_EXTENSIBLE: the real tag opens the GUID of the subformat
        tag = struct.unpack("<H", chunk[24:26])[0]
    if tag not in (1, 3):
        raise AudioError(f"{path}: compressed (format {tag}), only PCM and float are read: "
                         "convert it, for example: ffmpeg -i IN -ar 16000 -ac 1 OUT.wav")
    if channels == 0 or frame_bytes % channels:
        raise AudioError(f"{nonsense} ({channels} channels in {frame_bytes} bytes): record or convert it again")
    sample_bytes = frame_bytes // channels
    if sample_bytes not in ((1, 2, 3, 4) if tag == 1 else (4, 8)) or not 0 < bits <= 8 * sample_bytes:
        raise AudioError(f"{nonsense} ({bits} bits in {sample_bytes} bytes): record or convert it again")
    if not 1000 <= rate <= 768_000:
        raise AudioError(f"{nonsense} ({rate} Hz): record or convert it again")
    return Format(rate, channels, sample_bytes, tag == 3)


def _wav_blocks(file: BinaryIO, path: str, form: Format, size: int, warn: Warn) -> Iterator[Samples]:
    """The samples, one channel, at the file's own rate."""
    frame_bytes = form.sample_bytes * form.channels
    at_once = max(1, BLOCK_BYTES // frame_bytes) * frame_bytes
    found = broken = 0
    while size < 0 or found < size:
        data = file.read(at_once if size < 0 else min(at_once, size - found))
        if not data:
            break
        found += len(data)
        samples = decode(data[: len(data) - len(data) % frame_bytes], form)
        good = np.abs(samples) < LOUDEST  # false for NaN as well
        if not good.all():
            broken += int(samples.size - np.count_nonzero(good))
            samples = np.where(good, samples, np.float32(0))
        if len(samples):
            yield mix(samples)
    frames, seconds = found // frame_bytes, form.rate * frame_bytes
    if frames == 0:
        raise AudioError(f"{path}: holds no audio: record it again")
    if found < size:
        warn(f"{path}: truncated, {found / seconds:.2f} s of the {size / seconds:.2f} s its header promises")
    if found % frame_bytes:
        warn(f"{path}: ends inside a sample, its last {found % frame_bytes} bytes are left out")
    if broken:
        warn(f"{path}: {broken} samples are NaN, infinite or beyond {LOUDEST:.0f} and were taken as 0")


def decode(data: bytes, form: Format) -> Samples:
    """Whole frames of bytes → (frames, channels) in -1…1."""
    samples: NDArray[np.floating]
    if form.is_float:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is told as such
            samples = np.frombuffer(data, f"<f{form.sample_bytes}").astype(np.float32)
    elif form.sample_bytes == 1:  # the only unsigned width
        samples = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    elif form.sample_bytes == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = wide.view("<i4")[:, 0].astype(np.float32) / 2**31
    else:
        samples = np.frombuffer(data, f"<i{form.sample_bytes}").astype(np.float32) / 2 ** (8 * form.sample_bytes - 1)
    return samples.reshape(-1, form.channels).astype(np.float32, copy=False)


def mix(samples: Samples) -> Samples:
    """(frames, channels) → (frames,), their mean. In float64 the sum of many loud channels cannot overflow."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float64).astype(np.float32)


def pcm_hops(stream: BinaryIO, hop_samples: int, warn: Warn) -> Iterator[Samples]:
    """Raw PCM, 16 kHz, one channel, 16-bit signed little-endian, until the stream ends → hops, each as soon as it is
    complete. Raises AudioError when it is a WAV file, or when nothing comes at all.
    """
    yield from cut(_pcm_blocks(stream, hop_samples, warn), hop_samples)


def _pcm_blocks(stream: BinaryIO, hop_samples: int, warn: Warn) -> Iterator[Samples]:
    data = stream.read(2 * hop_samples)
    if len(data) < 2:
        raise AudioError("standard input: ended before any audio: pipe raw PCM into it, for example "
                         "arecord -q -r 16000 -f S16_LE -c 1 -t raw | listen.py BUNDLE --stdin")
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        raise AudioError("standard input: is a WAV file, not raw PCM: use --wav FILE, or arecord -t raw")
    while data:
        if len(data) % 2:
            warn("standard input: ends inside a sample, its last byte is left out")
        yield mix(decode(data[: len(data) - len(data) % 2], RAW))
        data = stream.read(2 * hop_samples)
