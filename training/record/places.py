"""Where takes and talk are kept, and what talk must have to be kept."""

import re
from pathlib import Path

import numpy as np

from training import data
from training.data import SAMPLE_RATE
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
    data.write(path, audio)


def talk_fault(piece: np.ndarray) -> str:
    """Why a piece of talk cannot be used, "" if it can."""
    if (np.abs(piece) >= takes.CLIPPED).sum() > takes.MOST_CLIPPED:
        return takes.TOO_LOUD
    levels = takes.levels(piece)
    if not len(levels) or (levels >= np.quantile(levels, 0.1) + takes.LOUDER).mean() < SPOKEN:
        return "silent: hardly anything is said in it"
    return ""
