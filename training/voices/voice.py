"""What every speech engine offers, so that whoever wants a word said need not know which engines there are.

An engine is a module with the names of `Engine`. Its `speak` may keep state in memory that no thread may share:
call it from one thread of a process (training.voices.clips has processes of its own for that).
"""

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import soundfile

Thing = TypeVar("Thing")
SECONDS = 60  # for one utterance, on a machine that has other things to do


@dataclass(frozen=True)
class Speaker:
    """A voice of an engine."""

    engine: str  # name of the engine
    voice: str  # what the engine calls it
    person: str  # whose voice it is, the same in all engines: training and validation share no person


class Manner(NamedTuple):
    """How something is said, as factors of what the voice itself would do; an engine does what it can of it."""

    rate: float = 1.0
    pitch: float = 1.0
    stress: float = 1.0  # how far the pitch moves: 0 a monotone, 2 an excited talker


class Engine(Protocol):
    NAME: str
    INSTALL: str  # how to get it

    def missing(self) -> bool:
        """Whether it is not installed."""

    def speakers(self, language: str, folder: Path | None) -> list[Speaker]:
        """Its voices for a language, in a fixed order; none where it is missing.

        language: espeak-ng's code, "en" for all its accents or "en-us" for one. folder: the user's own voice files.
        """

    def speak(self, text: str, speaker: Speaker, manner: Manner) -> tuple[np.ndarray, int]:
        """(n,) float32 in −1…1 and its rate in Hz. Raises OSError, RuntimeError, ValueError, SubprocessError."""


def matches(language: str, wanted: str) -> bool:
    """Whether a voice's language is the wanted one or an accent of it; case and underscores do not matter."""
    have, want = (code.lower().replace("_", "-") for code in (language, wanted))
    return have == want or have.startswith(f"{want}-")


class OneAProcess(Generic[Thing]):
    """What is made at the first call and kept; a process that was forked since then makes its own."""

    def __init__(self, make: Callable[[], Thing]) -> None:
        self.make, self.kept = make, dict[int, Thing]()

    def __call__(self) -> Thing:
        mine = os.getpid()
        if mine not in self.kept:
            self.kept = {mine: self.make()}
        return self.kept[mine]

    def forget(self) -> None:
        self.kept = {}


def run(command: Sequence[str], text: str) -> tuple[np.ndarray, int]:
    """What a program writes into the WAV file that is named WAV in its command, text on its standard input."""
    with tempfile.TemporaryDirectory(prefix="earshot-") as folder:
        wav = f"{folder}/said.wav"
        named = [part.replace("WAV", wav) if part.endswith("WAV") else part for part in command]
        subprocess.run(named, input=text.encode(), check=True, capture_output=True, timeout=SECONDS)
        return load(wav)


def load(wav: str) -> tuple[np.ndarray, int]:
    """A WAV file of any format → (n,) float32, rate in Hz."""
    audio, rate = soundfile.read(wav, dtype="float32", always_2d=True)
    return audio.mean(axis=1), rate
