"""Test clips of a keyword and of other words, and how any recording is streamed."""

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
OTHERS = 20  # clips of other words that are needed at least


@dataclass(frozen=True)
class Recordings:
    """Test recordings of one keyword, float32."""

    positives: list[np.ndarray]  # clips of the testing list
    validation: list[np.ndarray]  # clips of the keyword in the validation list
    negatives: list[np.ndarray]  # all others there, and background only
    files: list[str]  # of the negatives
    noises: list[np.ndarray]


@functools.cache  # several models hear the same
def load(base: Path, keyword: str) -> Recordings:
    """Raises DataError where there is too little to measure with."""
    found = data.find(base, ["speech_commands", "wake_words"], words=True)
    clips = [c for c in found if c.split == "testing"]
    home = {c.path.parents[1] for c in clips if c.word == keyword}
    if not home:
        raise data.DataError(f"no test clips of {keyword!r} below {base}")
    # Negatives come from the corpus of the keyword, recorded like it; other corpora are too easily told apart.
    negatives = [c for c in clips if c.word != keyword and c.path.parents[1] in home]
    if len(negatives) < OTHERS:
        have = f"{len(negatives)} test clips of other words than {keyword!r} below {base}"
        raise data.DataError(f"{have}, {OTHERS} needed; add some")
    negatives += data.find(base, [SILENCES]) if base / "speech_commands" in home else []
    noises = [c for c in data.find(base, ["noise"]) if c.split == "testing"]
    return Recordings(
        data.read_floats([c for c in clips if c.word == keyword], keyword),
        data.read_floats([c for c in found if c.word == keyword and c.split == "validation"], keyword),
        data.read_floats(negatives, "negatives"),
        [str(c.path) for c in negatives],
        data.read_floats(noises, "noise"),
    )


def talk(base: Path) -> np.ndarray:
    """Requests of the testing split, joined: (n,) float32."""
    found = [to_float(one.read()) for one in corpora.recordings("requests", "testing", base, only=())]
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def stream(engine: Engine, audio: np.ndarray, keyword: int) -> np.ndarray:
    """Scores of each hop of one stream from zero state, the last hop filled up with zeros: (hops,)."""
    engine.reset()
    return np.array([engine.step(hop)[keyword] for hop in cut([audio], engine.hop_samples)])


def bar(items: Iterable, what: str) -> Iterable:
    return tqdm(items, desc=what, leave=False)
