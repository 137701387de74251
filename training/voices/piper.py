"""Piper: neural voices from files that the user has (VOICES=folder); none are downloaded. GPL-3; voices have their own.

A voice is `name.onnx` with `name.onnx.json` beside it, and may hold several speakers, or one in several moods.
"""

import functools
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from training.data.recordings import DataError
from training.voices.voice import Manner, Speaker, matches

NAME = "Piper"
INSTALL = "pip install piper-tts, and name the folder of your voice files: VOICES=folder"
# Names of speakers that are one person in several moods.
MOODS = {"amused", "angry", "disgusted", "drunk", "happy", "neutral", "sad", "sleepy", "surprised", "whisper"}


def missing() -> bool:
    return importlib.util.find_spec("piper") is None


@functools.cache
def about(model: Path) -> tuple[str, dict[str, int]]:
    """Of a voice file: language, and number of each speaker by name. Raises DataError."""
    config = model.with_name(f"{model.name}.json")
    try:
        said = json.loads(config.read_text())
        numbers = said.get("speaker_id_map") or {f"{n}": n for n in range(said["num_speakers"])}
        return said["espeak"]["voice"], numbers
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{config}: is not the description of a Piper voice ({error}); copy it again") from None


def speakers(language: str, folder: Path | None = None) -> list[Speaker]:
    """Raises DataError where a voice file has no readable description."""
    if folder is None or missing():
        return []
    found = []
    for model in sorted(folder.rglob("*.onnx")):
        code, numbers = about(model)
        if matches(code, language):
            alone = len(numbers) == 1 or not set(numbers) - MOODS
            people = {name: model.stem if alone else f"{model.stem} {name}" for name in numbers}
            found += [Speaker(NAME, f"{model}#{number}", people[name]) for name, number in numbers.items()]
    return found


@functools.lru_cache(2)  # a voice is some 60 MB
def loaded(model: str, process: int) -> Any:
    """process: a fork cannot use what its parent loaded."""
    from piper import PiperVoice

    return PiperVoice.load(model)


def speak(text: str, speaker: Speaker, manner: Manner) -> tuple[np.ndarray, int]:
    """It knows no pitch. Stress is how freely the voice chooses its sound and rhythm."""
    from piper import SynthesisConfig

    model, _, number = speaker.voice.rpartition("#")
    voice = loaded(model, os.getpid())
    how = SynthesisConfig(
        speaker_id=int(number) if voice.config.num_speakers > 1 else None,
        length_scale=voice.config.length_scale / manner.rate,
        noise_scale=voice.config.noise_scale * manner.stress,
        noise_w_scale=voice.config.noise_w_scale * manner.stress,
    )
    said = [chunk.audio_float_array for chunk in voice.synthesize(text, how)]
    return np.concatenate([np.zeros(0, np.float32), *said]), voice.config.sample_rate
