"""espeak-ng: formant synthesis in a hundred languages, with dozens of voice variants. GPL-3."""

import functools
import math
import re
import shutil
import subprocess
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from training.voices.voice import Manner, Speaker, matches, run

NAME = "espeak-ng"
INSTALL = "apt-get install espeak-ng"
WORDS_PER_MINUTE = 175  # its own rate
# Variants that nobody takes for a talker: machines, monsters, whispers without a voice, tests.
UNLIKE_PEOPLE = re.compile("robo|UniRobot|announcer|Demonic|whisper|klatt|fast|Tweaky", re.IGNORECASE)


def missing() -> bool:
    return shutil.which("espeak-ng") is None


def listed(what: str) -> list[str]:
    """The lines of `espeak-ng --voices=…` below their heading."""
    done = subprocess.run(["espeak-ng", f"--voices={what}"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[1:]


@functools.cache
def languages() -> tuple[str, ...]:
    """Codes of all languages and accents; those that need MBROLA's voices are left out."""
    rows = [line.split() for line in listed("")] if not missing() else []
    return tuple(sorted({row[1] for row in rows if not row[4].startswith("mb/")}))


@functools.cache
def variants() -> tuple[str, ...]:
    found = (re.search(r"!v/(\w+)\s*(\(|$)", line) for line in listed("variant"))
    return tuple(sorted(match[1] for match in found if match and not UNLIKE_PEOPLE.search(match[1])))


def speakers(language: str, folder: Path | None = None) -> list[Speaker]:
    if missing():
        return []
    accents = [code for code in languages() if matches(code, language)]
    return [Speaker(NAME, f"{accent}+{variant}", person(variant)) for accent in accents for variant in variants()]


def accent(language: str) -> str | None:
    """The accent that says how a language sounds: "en" is read as "en-us", "fr" as "fr-fr"; None if it has none."""
    found = [code for code in languages() if matches(code, language)]
    first = (language, "en-us", f"{language}-{language}")
    return next((code for code in (*first, *found) if code in found), None)


def person(variant: str) -> str:
    """Steph3 is steph at another time; f3 is somebody else than f2."""
    return f"{NAME} {re.sub(r'(?<=[a-z]{2})[0-9]+$', '', variant.lower())}"


def speak(text: str, speaker: Speaker, manner: Manner) -> tuple[np.ndarray, int]:
    pitch = min(99, max(0, round(50 + 50 * math.log2(manner.pitch))))  # 0 is half, 100 twice the voice's own
    options = ["-s", f"{WORDS_PER_MINUTE * manner.rate:.0f}", "-p", f"{pitch}"]
    markup = f'<speak><prosody range="{round(100 * manner.stress)}%">{escape(text)}</prosody></speak>'
    return run(["espeak-ng", "--stdin", "-m", "-v", speaker.voice, *options, "-w", "WAV"], markup)
