"""Flags for the engine, weights and audio that the tests of the C engine share."""

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.audio import synthesise
from export.detector import read_checkpoint
from export.forms.binary import FLOAT32, to_bytes
from runtime.c.library import FLAGS, CEngine

HERE = Path(__file__).parent
MODELS = HERE.parents[2] / "models"
OPTIMISED = tuple(flag for flag in FLAGS if flag not in ("-fPIC", "-shared"))
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wno-sign-conversion", "-Wshadow", "-Werror")
SANITIZED = ("-std=c99", "-g", "-O1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")


@functools.cache
def weights(model: str, kind: int = FLOAT32) -> bytes:
    """A shipped checkpoint as model.bin."""
    return to_bytes(read_checkpoint(MODELS / model), kind)


@functools.cache
def audio() -> NDArray[np.float32]:
    """24 seconds like speech, as whole hops of 80 ms."""
    sound = synthesise()
    return sound[: len(sound) // 1280 * 1280]


def scores(engine: CEngine, sound: NDArray[np.float32] | NDArray[np.int16]) -> NDArray[np.float32]:
    """(samples,) → (hops, keywords), going on from the engine's state."""
    hop = engine.hop_samples
    return np.array([engine.step(sound[start : start + hop]) for start in range(0, len(sound) - hop + 1, hop)])
