"""SVOX Pico: a small, natural voice for each of six languages. Apache-2.0; its voices come with ttspico from PyPI."""

import importlib.util
from pathlib import Path

import numpy as np

from training.voices.voice import Manner, Speaker, matches

NAME = "SVOX Pico"
INSTALL = "pip install ttspico"
VOICES = ("en-US", "en-GB", "de-DE", "es-ES", "fr-FR", "it-IT")
RATE = 16_000


def missing() -> bool:
    return importlib.util.find_spec("ttspico") is None


def speakers(language: str, folder: Path | None = None) -> list[Speaker]:
    return [] if missing() else [Speaker(NAME, v, f"{NAME} {v}") for v in VOICES if matches(v, language)]


def speak(text: str, speaker: Speaker, manner: Manner) -> tuple[np.ndarray, int]:
    from ttspico import TtsEngine  # its library keeps things in static memory: one at a time in a process

    engine = TtsEngine(speaker.voice)
    engine.rate = min(500, max(20, round(100 * manner.rate)))  # per cent
    engine.pitch = min(200, max(50, round(100 * manner.pitch)))
    return np.frombuffer(engine.speak(text), np.int16).astype(np.float32) / 32768, RATE
