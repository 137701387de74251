"""Takes and talk from files: `folder/<speaker>/*.wav`, `folder/*.wav`, and `folder/talk/…` for what else was said.

One file may hold many takes with pauses between them. What was read before is found again by what it holds, so files
may be added and the command repeated.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from training.data import recordings
from training.data.recordings import SUFFIXES, DataError
from training.record import places, takes

TALK = "talk"


class Found(NamedTuple):
    """A part of a file: a take or a piece of talk, and why it cannot be used, if so."""

    speaker: str
    is_talk: bool
    audio: np.ndarray
    start: float  # seconds
    fault: str


def gather(folder: Path, word: str, speaker: str, out: Path) -> tuple[int, int]:
    """Takes and pieces of talk in a folder of files → (how many takes, how many pieces) can be used; what cannot is
    told with its reason. Raises DataError where there is none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise DataError(f"{folder}: has no recordings ({', '.join(SUFFIXES)}); name another folder: FROM=folder")
    good = [0, 0]
    for path in tqdm(paths, desc=f"{folder}", unit="file", leave=False):
        try:
            for found in parts(path, folder, speaker):
                if found.fault:
                    tqdm.write(f"{path}: {found.start:.1f} s: left out: {found.fault}")
                    continue
                good[found.is_talk] += 1
                place = places.path(out, word, found.speaker, number(found.audio), talk=found.is_talk)
                if not place.exists():
                    places.keep(place, found.audio)
        except DataError as error:
            tqdm.write(f"left out: {error}")
    if not good[0]:
        raise DataError(f"{folder}: none of its {len(paths)} files has a take of {word!r} that can be used")
    return good[0], good[1]


def parts(path: Path, folder: Path, speaker: str) -> Iterator[Found]:
    """Raises DataError for a file that cannot be read."""
    inner = path.relative_to(folder).parts[:-1]
    is_talk = inner[:1] == (TALK,)
    inner = inner[is_talk:]
    named = path.name.partition("_nohash_")[0] if "_nohash_" in path.name else speaker
    who = places.slug(inner[0] if inner else named)
    audio = recordings.to_float(recordings.read(path))
    if is_talk:
        for i, start in enumerate(range(0, len(audio), places.PIECE)):
            piece = audio[start : start + places.PIECE]
            yield Found(who, True, piece, i * places.PIECE / recordings.SAMPLE_RATE, places.talk_fault(piece))
        return
    any_take = False
    for take in takes.takes([audio], takes.room(audio)):
        if take:
            any_take = True
            yield Found(who, False, take.audio, take.start, take.fault)
    if not any_take:
        yield Found(who, False, audio, 0.0, "silent: nothing in it is louder than its background")


def number(audio: np.ndarray) -> int:
    """Of a take from a file: from what it holds, beyond all that the microphone's takes have."""
    return 1000 + int(hashlib.sha256(audio.tobytes()).hexdigest()[:8], 16)
