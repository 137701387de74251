"""The recordings that windows are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from training.data import corpora, mislabelled, noises
from training.data import recordings as data
from training.model.features import SAMPLE_RATE
from training.recipe import Recipe
from training.voices import synthesize
from training.windows import augment

HUMS = 64  # excerpts of stationary noise, ten seconds each
Item = TypeVar("Item")


@dataclass(frozen=True)
class Clips:
    """Where the recordings of the training split are."""

    keywords: list[list[data.Clip]]  # of each keyword
    words: list[data.Clip]  # of other words
    speech: list[data.Clip]
    packages: list[corpora.Recording]  # more speech
    noise: list[data.Clip]
    loud: list[corpora.Recording]  # sounds that are no speech and stand for themselves: bursts, tones, music
    synthetic: list[data.Clip]  # synthesised sentences
    voices: list[list[data.Clip]]  # of each keyword, synthesised

    def names(self) -> list[str]:
        """All of them, in a fixed order."""
        clips: list[data.Clip | corpora.Recording] = [*sum(self.keywords, []), *self.words, *self.speech]
        clips += [*self.packages, *self.noise, *self.loud, *self.synthetic, *sum(self.voices, [])]
        return [clip.name for clip in clips]


@dataclass(frozen=True)
class Sources:
    """The same recordings in memory, int16 at 16 kHz, and what else is mixed in."""

    keywords: list[list[np.ndarray]]
    words: list[np.ndarray]
    speech: list[np.ndarray]  # each kind of speech as one long recording
    noise: list[np.ndarray]
    loud: list[np.ndarray]
    synthetic: list[np.ndarray]
    voices: list[list[np.ndarray]]
    rooms: list[np.ndarray]  # impulse responses, float32
    hums: list[np.ndarray]  # stationary noise of unit level, float32


def find(base: Path, recipe: Recipe) -> Clips:
    """The clips of the training split below `base` and in packages. Raises DataError where a keyword has none."""
    wrong = set() if recipe.data.mislabelled else mislabelled.known()
    keywords = recipe.data.keywords
    words = [c for c in data.find(base, recipe.data.words, words=True) if c.split == "training"]
    words = [c for c in words if mislabelled.name_of(c.path, base) not in wrong]
    speech = [c for c in corpora.split(data.find(base, recipe.data.speech), base) if c.split == "training"]
    for keyword in keywords:
        if not any(c.word == keyword for c in words):
            raise data.DataError(f"no training clips of {keyword!r} in {', '.join(recipe.data.words)} below {base}")
    return Clips(
        [[c for c in words if c.word == k] for k in keywords],
        [c for c in words if c.word not in keywords],
        [c for c in speech if not any(k in c.path.relative_to(base).as_posix() for k in keywords)],
        corpora.speech("training", None, keywords, recipe.data.packages),
        [c for c in data.find(base, recipe.data.noise) if c.split == "training"],
        corpora.recordings("noise", "training", None, recipe.data.packages) if recipe.windows.bursts else [],
        clips_of(synthesize.utterances(keywords, recipe.data.synthetic)),
        [clips_of(synthesize.clips(keyword, recipe.data.voices)) for keyword in keywords],
    )


def clips_of(paths: list[Path]) -> list[data.Clip]:
    return [data.Clip(path, "", "training") for path in paths]


def read(clips: Clips, rooms: int) -> Sources:
    """rooms: how many are simulated. Raises DataError."""
    rng = np.random.default_rng(0)
    kinds: list[Sequence[data.Readable]] = [clips.speech]
    kinds += [[one for one in clips.packages if one.kind == kind] for kind in corpora.SPEECH]
    return Sources(
        [data.read_all(k, "keyword clips") for k in clips.keywords],
        data.read_all(clips.words, "other words"),
        [np.concatenate(data.read_all(kind, "speech")) for kind in kinds if kind],
        data.read_all(clips.noise, "noise"),
        data.read_all(clips.loud, "loud noise"),
        data.read_all(clips.synthetic, "synthesised speech"),
        [data.read_all(k, "synthesised clips") for k in clips.voices],
        augment.room_responses(rooms, seed=0),
        [noises.coloured_noise(10 * SAMPLE_RATE, rng.uniform(-1, 7), rng) for _ in range(HUMS)],
    )


def pick(items: list[Item], rng: np.random.Generator) -> Item:
    return items[int(rng.integers(len(items)))]


def excerpt(audio: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n samples from anywhere in a recording that is taken as a circle."""
    at = int(rng.integers(len(audio)))
    return audio[at : at + n] if at + n <= len(audio) else np.resize(np.roll(audio, -at), n)
