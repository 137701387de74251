"""RHVoice: statistical parametric synthesis, English and some languages of eastern Europe. LGPL-2.1, the voices vary.

The package rhvoice-wrapper speaks to the library, which is Debian's (in non-free, as its voices come without what they
were trained by) or that of rhvoice-wrapper-bin, which pip builds from source (git, scons, a C++ compiler).
"""

import contextlib
import ctypes.util
import functools
import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np

from training.voices.voice import Manner, OneAProcess, Speaker, matches

NAME = "RHVoice"
INSTALL = "pip install rhvoice-wrapper; apt-get install librhvoice5 rhvoice-english (Debian: non-free)"
DEBIAN = Path("/usr/share/RHVoice")
# Only these: voices that may be used and changed for any purpose, with whose recordings they are. The others forbid
# derivatives, or use for money. Licences: CMU ARCTIC's, LGPL-2.1, GPL-3 (elena, spomenka), CC BY-SA 4.0 (leticia-f123,
# aleksandr-hq).
FREE = {
    "alan": "awb",
    "bdl": "bdl",
    "clb": "clb",
    "slt": "slt",
    "aleksandr": "aleksandr",
    "aleksandr-hq": "aleksandr",
    "anatol": "anatol",
    "anna": "anna",
    "azamat": "azamat",
    "elena": "elena",
    "irina": "irina",
    "leticia-f123": "leticia",
    "natalia": "natalia",
    "nazgul": "nazgul",
    "spomenka": "spomenka",
}
ACCENTS = {"en": "en-us", "pt": "pt-br"}  # it names the language only


def missing() -> bool:
    have_library = importlib.util.find_spec("rhvoice_wrapper_bin") or (DEBIAN.is_dir() and debian_library())
    return importlib.util.find_spec("rhvoice_wrapper") is None or not have_library


def debian_library() -> str | None:
    return ctypes.util.find_library("RHVoice")


@OneAProcess
def engine() -> tuple[Any, list[Any], list[int]]:
    """The engine, the samples that it gives while it speaks, and their rate."""
    samples: list[Any] = []
    rate = [24_000]

    def heard(some: Any, count: int, _: object) -> int:
        samples.append(np.ctypeslib.as_array(some, (count,)).copy())
        return 1  # go on

    def at_rate(hertz: int, _: object) -> int:
        rate[0] = hertz
        return 1

    with contextlib.redirect_stdout(io.StringIO()):  # it tells of every program that it does not find
        from rhvoice_wrapper.rhvoice_proxy import Engine

        if importlib.util.find_spec("rhvoice_wrapper_bin"):
            made = Engine()
            made.init(heard, at_rate)
        else:
            made = Engine(debian_library())
            made.init(heard, at_rate, data_path=str(DEBIAN))
    return made, samples, rate


@functools.cache
def voices() -> tuple[tuple[str, str], ...]:
    """(name, language) of those that may be used."""
    known = engine()[0].voices
    return tuple((name, ACCENTS.get(known[name]["lang"], known[name]["lang"])) for name in FREE if name in known)


def speakers(language: str, folder: Path | None = None) -> list[Speaker]:
    if missing():
        return []
    return [Speaker(NAME, voice, FREE[voice]) for voice, code in voices() if matches(code, language)]


def speak(text: str, speaker: Speaker, manner: Manner) -> tuple[np.ndarray, int]:
    made, samples, rate = engine()
    samples.clear()
    made.set_params(voice_profile=speaker.voice, relative_rate=manner.rate, relative_pitch=manner.pitch)
    made.generate(text)
    said = np.concatenate(samples) if samples else np.zeros(0, np.int16)
    return said.astype(np.float32) / 32768, rate[0]
