"""Recordings without the keyword: each kind of speech and noise, the user's folders, and clips of other words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_demo.evaluate.recordings import Recordings
from training.data import corpora
from training.data import recordings as data
from training.data.corpora import Recording

JOINED = "joined_negatives"  # clips of other words, as one stream


class Stream(NamedTuple):
    name: str
    recordings: Sequence[Recording]


@dataclass(frozen=True)
class InMemory(Recording):
    audio: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # float32

    def read(self) -> np.ndarray:
        return np.round(self.audio * 32768).clip(-32768, 32767).astype(np.int16)


def kinds(split: str, base: Path) -> list[Stream]:
    """A stream of each kind with recordings. Raises DataError when a package cannot be fetched."""
    streams = [Stream(kind, corpora.recordings(kind, split, base)) for kind in corpora.KINDS]
    return [stream for stream in streams if stream.recordings]


def of_folders(folders: Sequence[Path]) -> list[Stream]:
    """A stream of each folder of the user's. Raises DataError for one without recordings."""
    streams = []
    for folder in folders:
        clips = data.clips_of(folder, words=False)
        if not clips:
            raise data.DataError(f"{folder}: no recordings ({' '.join(data.SUFFIXES)}); name another with --also")
        name = folder.resolve().name
        named = [(f"{name}/{clip.path.relative_to(folder).as_posix()}", clip.path) for clip in clips]
        streams.append(Stream(name, [Recording(label, name, "testing", name, path) for label, path in named]))
    return streams


def joined(recordings: Recordings) -> Stream:
    """Clips of other words in a random order, the same each time."""
    order = np.random.default_rng(2).permutation(len(recordings.negatives))
    named = [(recordings.files[i], recordings.negatives[i]) for i in order]
    return Stream(JOINED, [InMemory(name, JOINED, "testing", JOINED, None, 0, audio) for name, audio in named])
