"""Which engines there are, whose voices they have here, and which of them validation keeps for itself."""

import hashlib
from pathlib import Path

from training.data.recordings import DataError
from training.voices import espeak, festival, flite, pico, piper, rhvoice
from training.voices.voice import Engine, Speaker

ENGINES: dict[str, Engine] = {engine.NAME: engine for engine in (espeak, flite, pico, rhvoice, festival, piper)}
VALIDATION = 0.2  # share of people that training does not hear


def known(language: str, folder: Path | None = None) -> list[Speaker]:
    """All voices for a language, in a fixed order. Raises DataError where there are none.

    language, folder: see Engine.speakers.
    """
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder of voice files; leave VOICES out, or name one with Piper's *.onnx")
    found = [speaker for engine in ENGINES.values() for speaker in engine.speakers(language, folder)]
    if not found:
        lacking = "; ".join(engine.INSTALL for engine in ENGINES.values() if engine.missing())
        raise DataError(f"no voice speaks {language!r}: {lacking or 'see espeak-ng --voices for its codes'}")
    return found


def split(speakers: list[Speaker]) -> tuple[list[Speaker], list[Speaker]]:
    """For training, for validation: by a hash of each person's name, so that nobody is in both. With few people the one
    whose hash is lowest is for validation; a single one has to be in both."""
    order = sorted({speaker.person for speaker in speakers}, key=share)
    held = {person for person in order if share(person) < VALIDATION} or {order[0]}
    if len(held) == len(order) > 1:
        held = {order[0]}
    training = [speaker for speaker in speakers if speaker.person not in held]
    return training or speakers, [speaker for speaker in speakers if speaker.person in held]


def share(person: str) -> float:
    """0…1, the same for a person at all times and everywhere."""
    return int(hashlib.sha1(person.encode()).hexdigest()[:12], 16) / 16**12
