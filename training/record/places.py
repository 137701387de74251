"""Where takes and talk are kept, and what talk must have to be kept.

    recordings/<word>/<speaker>_nohash_<n>.wav          takes, 16 kHz, spaces in the word as underscores
    recordings/_talk_/<word>/<speaker>_nohash_<n>.wav   ten seconds each of what the same people say besides

This is Speech Commands' layout: `training.data.recordings.find(base, ["recordings"], words=True)` reads the takes,
`find(base, ["recordings/_talk_/<word>"])` the talk.
"""

import re
from pathlib import Path

import numpy as np

from training.data import recordings
from training.data.recordings import SAMPLE_RATE
from training.record import takes

PIECE = 10 * SAMPLE_RATE  # samples of talk in a file
SPOKEN = 0.2  # share of a piece of talk in which something is said, at the least


def slug(name: str) -> str:
    """A speaker's name as part of a file's name."""
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-") or "me"


def folder(out: Path, word: str, talk: bool = False) -> Path:
    return (out / "_talk_" if talk else out) / word.replace(" ", "_")


def path(out: Path, word: str, speaker: str, number: int, talk: bool = False) -> Path:
    """The file of a take, or of a piece of talk."""
    return folder(out, word, talk) / f"{slug(speaker)}_nohash_{number}.wav"


def keep(path: Path, audio: np.ndarray) -> None:
    """Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    recordings.write(path, audio)


def talk_fault(piece: np.ndarray) -> str:
    """Why a piece of talk cannot be used, "" if it can."""
    if (np.abs(piece) >= takes.CLIPPED).sum() > takes.MOST_CLIPPED:
        return takes.TOO_LOUD
    levels = takes.levels(piece)
    if not len(levels) or (levels >= np.quantile(levels, 0.1) + takes.LOUDER).mean() < SPOKEN:
        return "silent: hardly anything is said in it"
    return ""
