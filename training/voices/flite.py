"""flite: four English voices of Carnegie Mellon's recordings. A free licence like BSD's."""

import functools
import shutil
import subprocess
from pathlib import Path

import numpy as np

from training.voices.voice import Manner, Speaker, matches, run

NAME = "flite"
INSTALL = "apt-get install flite"
# Mean pitch in Hz. "kal" is the same man as "kal16" over a telephone, "awb_time" tells only the time.
PITCH = {"slt": 175, "rms": 100, "awb": 130, "kal16": 105}
SPREAD = {"slt": 20, "rms": 15, "awb": 15, "kal16": 15}  # of the pitch, in Hz


def missing() -> bool:
    return shutil.which("flite") is None


@functools.cache
def voices() -> tuple[str, ...]:
    have = subprocess.run(["flite", "-lv"], capture_output=True, text=True, check=True).stdout.split()
    return tuple(voice for voice in PITCH if voice in have)


def speakers(language: str, folder: Path | None = None) -> list[Speaker]:
    if missing() or not matches("en-us", language):
        return []
    return [Speaker(NAME, voice, voice.removesuffix("16")) for voice in voices()]


def speak(text: str, speaker: Speaker, manner: Manner) -> tuple[np.ndarray, int]:
    settings = {
        "duration_stretch": 1 / manner.rate,
        "int_f0_target_mean": PITCH[speaker.voice] * manner.pitch,
        "int_f0_target_stddev": SPREAD[speaker.voice] * manner.pitch * manner.stress,
    }
    options = [part for name, value in settings.items() for part in ("--setf", f"{name}={value:.3f}")]
    return run(["flite", "-voice", speaker.voice, *options, "-t", text, "-o", "WAV"], "")
