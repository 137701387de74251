"""Test clips of a keyword and of other words, and the scores of any audio as a stream."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from runtime.audio.hops import cut
from runtime.bundle.engine import Engine
from training.data import corpora
from training.data import recordings as data
from training.data.recordings import to_float

SILENCES = "speech_commands/_silence_"
LEAST_OTHERS = 20  # clips of other words


@dataclass(frozen=True)
class Recordings:
    """Test recordings of one keyword, float32."""

    positives: list[np.ndarray]  # clips of the testing list
    validation: list[np.ndarray]  # clips of the keyword in the validation list
    negatives: list[np.ndarray]  # all others there, and background only
    files: list[str]  # of the negatives
    noises: list[np.ndarray]


@functools.cache  # several models are measured on the same
def load(base: Path, keyword: str) -> Recordings:
    """Raises DataError when there are too few clips to measure with."""
    every = data.find(base, ["speech_commands", "wake_words"], words=True)
    clips = [c for c in every if c.split == "testing"]
    home = {c.path.parents[1] for c in clips if c.word == keyword}
    if not home:
        raise data.DataError(f"no test clips of {keyword!r} below {base}")
    # Negatives come from the corpus of the keyword, recorded like it; clips of other corpora are too easy to reject.
    negatives = [c for c in clips if c.word != keyword and c.path.parents[1] in home]
    if len(negatives) < LEAST_OTHERS:
        have = f"{len(negatives)} test clips of other words than {keyword!r} below {base}"
        raise data.DataError(f"{have}, {LEAST_OTHERS} needed; add some")
    negatives += data.find(base, [SILENCES]) if base / "speech_commands" in home else []
    noises = [c for c in data.find(base, ["noise"]) if c.split == "testing"]
    return Recordings(
        data.read_floats([c for c in clips if c.word == keyword], keyword),
        data.read_floats([c for c in every if c.word == keyword and c.split == "validation"], keyword),
        data.read_floats(negatives, "negatives"),
        [str(c.path) for c in negatives],
        data.read_floats(noises, "noise"),
    )


def talk(base: Path) -> np.ndarray:
    """Requests of the testing split, joined: (n,) float32."""
    clips = [to_float(one.read()) for one in corpora.recordings("requests", "testing", base, only=())]
    return np.concatenate(clips) if clips else np.zeros(0, np.float32)


def stream(engine: Engine, audio: np.ndarray, keyword: int) -> np.ndarray:
    """Scores of each hop of one stream from zero state, the last hop filled up with zeros: (hops,)."""
    engine.reset()
    return np.array([engine.step(hop)[keyword] for hop in cut([audio], engine.hop_samples)])


def progress(items: Iterable, what: str) -> Iterable:
    return tqdm(items, desc=what, leave=False)
