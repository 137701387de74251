"""Folders of recordings → labelled clips in memory, split by speaker. numpy and soundfile only, no torch.

Three kinds of folder, all below EARSHOT_DATA:

- *words*: the layout of Speech Commands. One folder per word, clips named `<speaker>_nohash_<n>.wav` or `.flac`,
  `validation_list.txt` and `testing_list.txt` beside them. Folders whose name begins with `_` are not words.
- *speech*: recordings without any keyword, of any depth and length.
- *noise*: recordings without speech, of any depth and length.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
from tqdm import tqdm

SAMPLE_RATE = 16_000
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus")
SPLITS = ("training", "validation", "testing")


class DataError(Exception):
    """Recordings that are missing or cannot be read; the message is one line with the fix in it."""


@dataclass(frozen=True)
class Clip:
    path: Path
    word: str  # the folder's name for word clips, "" for other speech and noise
    split: str  # one of SPLITS

    @property
    def name(self) -> str:
        return self.path.as_posix()

    def read(self) -> np.ndarray:
        """(n,) int16 at 16 kHz. Raises DataError."""
        return read(self.path)


def root(folder: str | None = None) -> Path:
    """The folder of recordings: the argument, or EARSHOT_DATA. Raises DataError."""
    name = folder or os.environ.get("EARSHOT_DATA")
    if not name:
        raise DataError("no recordings: set EARSHOT_DATA to their folder, or pass --data; `make data` fetches some")
    if not Path(name).is_dir():
        raise DataError(f"{name}: no such folder of recordings; set EARSHOT_DATA or pass --data")
    return Path(name)


def speaker_split(name: str, validation: float = 10.0, testing: float = 10.0) -> str:
    """Speech Commands' own rule: a hash of the speaker decides, so that nobody is in two splits.

    name: file name; what follows `_nohash_` does not count. validation, testing: percentages.
    Source: `which_set` in the Speech Commands README (Warden 2018, arXiv:1804.03209).
    """
    speaker = name.split("_nohash_")[0] if "_nohash_" in name else Path(name).stem
    most = 2**27 - 1
    share = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (most + 1) * (100.0 / most)
    if share < validation:
        return "validation"
    return "testing" if share < validation + testing else "training"


def read_list(path: Path) -> set[str] | None:
    return set(path.read_text().split()) if path.is_file() else None


def clips_of(folder: Path, words: bool) -> list[Clip]:
    """The recordings below `folder`, in a fixed order, each with its split.

    A listing file wins. Without `testing_list.txt` Speech Commands' hash decides for words, and nothing is for testing
    otherwise; without `validation_list.txt` the hash picks a tenth of the speakers that are not for testing.
    """
    testing, validation = read_list(folder / "testing_list.txt"), read_list(folder / "validation_list.txt")
    clips = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
        name = path.relative_to(folder).as_posix()
        word = name.split("/")[0] if words and "/" in name else ""
        if word.startswith("_"):
            continue
        if testing is not None and name in testing:
            split = "testing"
        elif validation is not None:
            split = "validation" if name in validation else "training"
        else:
            split = speaker_split(path.name, testing=10.0 if words and testing is None else 0.0)
        clips.append(Clip(path, word, split))
    return clips


def find(base: Path, folders: Iterable[str], words: bool = False) -> list[Clip]:
    """Clips of all folders that exist below `base`; a missing folder gives none."""
    return [clip for name in folders if (base / name).is_dir() for clip in clips_of(base / name, words)]


def read(path: Path) -> np.ndarray:
    """A recording as int16 mono at 16 kHz: (n,). Raises DataError for what is no audio."""
    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(f"{path}: {str(error).splitlines()[0]}; remove the file or restore it") from None
    mono = audio.mean(axis=1)
    if rate != SAMPLE_RATE:
        import soxr

        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    return (np.clip(np.nan_to_num(mono), -1, 1) * 32767).astype(np.int16)


def write(path: Path, audio: np.ndarray) -> None:
    """(n,) float32 in −1…1 at 16 kHz → a WAV file of 16 bits, whole or not at all. Raises OSError."""
    whole, partial = io.BytesIO(), path.with_name(f"{path.name}.partial")
    soundfile.write(whole, audio, SAMPLE_RATE, "PCM_16", format="WAV")
    try:
        partial.write_bytes(whole.getvalue())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


class Readable(Protocol):
    def read(self) -> np.ndarray: ...


def read_all(clips: Sequence[Readable], what: str) -> list[np.ndarray]:
    """Recordings as int16 mono at 16 kHz. Raises DataError."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        some = pool.map(lambda clip: clip.read(), clips)
        return list(tqdm(some, total=len(clips), desc=f"reading {what}", unit="clip", leave=False))


def to_float(audio: np.ndarray) -> np.ndarray:
    """int16 → float32 in −1…1"""
    return audio.astype(np.float32) / 32768


def read_floats(clips: Sequence[Readable], what: str) -> list[np.ndarray]:
    return [to_float(audio) for audio in read_all(clips, what)]


def frame_levels(audio: np.ndarray, frame: int = 320) -> np.ndarray:
    """Mean square of each whole 20 ms."""
    n = max(1, len(audio) // frame)
    padded = np.zeros(n * frame, np.float32)
    padded[: min(len(audio), n * frame)] = audio[: n * frame]
    return np.square(padded).reshape(n, frame).mean(axis=1)


def spoken_part(audio: np.ndarray) -> tuple[int, int]:
    """Where a clip's word stands, in samples: from its first to its last 20 ms within 25 dB of the loudest."""
    levels = frame_levels(audio)
    loud = np.flatnonzero(levels >= levels.max() * 10**-2.5)
    return int(loud[0]) * 320, min(len(audio), (int(loud[-1]) + 1) * 320)


def speech_level(audio: np.ndarray) -> float:
    """Root mean square of the 20 ms within 15 dB of the loudest; 0 for digital silence."""
    levels = frame_levels(audio)
    return float(np.sqrt(levels[levels >= levels.max() * 10**-1.5].mean()))
