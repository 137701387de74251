"""One training window: a few seconds of a life in which a keyword may be spoken, and where it was.

A keyword stands anywhere in its window, after and before other speech, near-misses, pauses and noise; so a GRU state
that has a past is the rule and not the exception. Window number `i` is a function of the recordings and `i` alone:
nothing depends on how many processes make them or where a training was interrupted.
"""

from typing import NamedTuple

import numpy as np

from training.data import recordings as data
from training.data.noises import decibels
from training.model.features import SAMPLE_RATE
from training.recipe import Composition
from training.windows import augment, splice
from training.windows.sources import Sources, excerpt, pick


class Window(NamedTuple):
    audio: np.ndarray  # (samples,) float32, −1…1
    keyword: int | None  # which one is said
    start: int  # of the keyword, in samples
    end: int


def compose(sources: Sources, how: Composition, n: int, rng: np.random.Generator) -> Window:
    """A window of n samples."""
    keyword, start, end = None, 0, 0
    if rng.random() < how.keywords:
        keyword = int(rng.integers(len(sources.keywords)))
        speech, start, end = say(keyword_clip(sources, how, keyword, rng), sources, how, n, rng)
    else:
        speech = filler(sources, how, n, rng)
    if rng.random() < how.in_rooms and sources.rooms:
        speech = augment.in_room(speech, pick(sources.rooms, rng))
    if rng.random() < how.narrow:
        speech = augment.band_limited(speech, rng.uniform(3500, 7000))
    if rng.random() < how.worn:
        speech = augment.worn(speech, rng)
    audio = speech + background(sources, how, n, rng)
    audio *= decibels(rng.uniform(*how.levels))
    if rng.random() < how.muted:  # a microphone is switched on, a file begins
        muted = start - int(rng.uniform(0, 0.4) * SAMPLE_RATE) if keyword is not None else int(rng.integers(n))
        audio[: max(0, muted)] = 0
    audio = np.round(np.clip(audio, -1, 1) * 32767) / 32768  # loud audio clips, quiet audio has few bits
    return Window(audio.astype(np.float32), keyword, start, end)


def say(
    clip: np.ndarray, sources: Sources, how: Composition, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, int, int]:
    """A word among other speech, most often after a pause: n samples, and where it starts and ends in them."""
    word, start, end = cut_out(clip, how, rng, n)
    at = int(rng.integers(0, max(1, min(n - len(word), n - end - int(0.32 * SAMPLE_RATE)))))
    before = filler(sources, how, at, rng)
    if rng.random() < how.pauses:
        silence_end(before, int(rng.uniform(0.15, 0.8) * SAMPLE_RATE))
    return np.concatenate([before, word, filler(sources, how, n - at - len(word), rng)]), start + at, end + at


def cut_out(clip: np.ndarray, how: Composition, rng: np.random.Generator, n: int) -> tuple[np.ndarray, int, int]:
    """A word, float32, with a little of what is around it, at unit level, and where it starts and ends in that."""
    word = at_unit_level(clip, how, rng)
    start, end = data.spoken_part(word)
    left = max(0, start - int(rng.uniform(0.02, 0.3) * SAMPLE_RATE))
    right = min(len(word), end + int(rng.uniform(0.02, 0.3) * SAMPLE_RATE))
    right = min(right, left + n // 2)
    return augment.fade(word[left:right]), start - left, min(end, right) - left


def keyword_clip(sources: Sources, how: Composition, keyword: int, rng: np.random.Generator) -> np.ndarray:
    """A clip of a keyword: a person's, two persons' or a synthesised one."""
    if sources.voices[keyword] and rng.random() < how.voiced:
        return data.to_float(pick(sources.voices[keyword], rng))
    clip = data.to_float(pick(sources.keywords[keyword], rng))
    if rng.random() < how.splices:
        other = data.to_float(pick(sources.keywords[keyword], rng))
        clip = splice.two_in_one(clip, other, rng.uniform(0.3, 0.7))
    return clip


def near_miss(sources: Sources, rng: np.random.Generator) -> np.ndarray:
    """Half of a keyword, and for its other half something else that people say, at unit level: so rhythm and one
    syllable are not enough. For "happy" half of "off" and "-py", which is nearly "coffee"."""
    word = at_level(data.to_float(pick(pick(sources.keywords, rng), rng)), rng)
    start, end = data.spoken_part(word)
    other = at_level(other_speech(sources, rng), rng)
    begin, stop = data.spoken_part(other)
    pause = np.zeros(int(rng.uniform(0, 0.06) * SAMPLE_RATE) if rng.random() < 0.5 else 0, np.float32)  # as of a stop
    if rng.random() < 0.6:
        first = other[begin : stop - int(rng.uniform(0, 0.5) * (stop - begin))]
        second = word[start + int(rng.uniform(0.4, 0.65) * (end - start)) : end + 800]
    else:
        first = word[start : start + int(rng.uniform(0.35, 0.55) * (end - start))]
        second = other[begin + int(rng.uniform(0, 0.5) * (stop - begin)) : stop]
    return splice.join(np.concatenate([first, pause]), second)


def other_speech(sources: Sources, rng: np.random.Generator) -> np.ndarray:
    """Another word, or a syllable or two of running speech."""
    if rng.random() < 0.5 or not sources.speech:
        return data.to_float(pick(sources.words, rng))
    return data.to_float(excerpt(pick(sources.speech, rng), int(rng.uniform(0.2, 0.5) * SAMPLE_RATE), rng))


def at_unit_level(audio: np.ndarray, how: Composition, rng: np.random.Generator) -> np.ndarray:
    """Speech at level 1 ± 4 dB, often at a speed of its own."""
    if rng.random() < how.sped:
        audio = augment.change_speed(audio, rng.uniform(*how.speeds))
    return at_level(audio, rng)


def at_level(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech at level 1 ± 4 dB."""
    return audio * (decibels(rng.uniform(-4, 4)) / max(data.speech_level(audio), 1e-4))


def filler(sources: Sources, how: Composition, n: int, rng: np.random.Generator) -> np.ndarray:
    """n samples without the keyword: pauses, other words, running speech, pieces of the keyword itself."""
    if n <= 0:
        return np.zeros(0, np.float32)
    bursts = sources.loud and rng.random() < how.bursts
    if not bursts and rng.random() < how.silent:
        return np.zeros(n, np.float32)
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < n:
        kind = rng.random()
        if bursts and kind < 0.7:
            piece = burst(sources, rng)
        elif rng.random() < 0.4 * how.splices:  # there are several pieces in a window, and half a keyword
            piece = augment.fade(at_unit_level(near_miss(sources, rng), how, rng))
        elif kind < 0.1:
            piece = data.to_float(pick(pick(sources.keywords, rng), rng))
            piece = augment.cut_short(at_unit_level(piece, how, rng), rng)
        elif kind < 0.35 or not sources.speech + sources.synthetic:
            piece = augment.fade(at_unit_level(data.to_float(pick(sources.words, rng)), how, rng))
        else:
            synthetic = sources.synthetic and (kind < 0.6 or not sources.speech)
            piece = pick(sources.synthetic if synthetic else sources.speech, rng)
            at = int(rng.integers(0, max(1, len(piece) - SAMPLE_RATE)))  # of all that was ever said, a moment
            piece = data.to_float(piece[at : at + int(rng.uniform(0.4, 3.0) * SAMPLE_RATE)])
            piece = augment.fade(at_unit_level(piece, how, rng))
        pieces += [piece, np.zeros(int(rng.exponential(0.15) * SAMPLE_RATE), np.float32)]
    track = np.concatenate(pieces)
    at = int(rng.integers(0, len(track) - n + 1))
    return track[at : at + n]


def burst(sources: Sources, rng: np.random.Generator) -> np.ndarray:
    """A loud sound that is no speech, up to 12 dB above it; every other one begins and ends abruptly."""
    sound = excerpt(pick(sources.loud, rng), int(rng.uniform(0.05, 3) * SAMPLE_RATE), rng)
    sound = at_level(data.to_float(sound), rng) * decibels(rng.uniform(-6, 12))
    return sound if rng.random() < 0.5 else augment.fade(sound)


def silence_end(audio: np.ndarray, samples: int) -> None:
    """Nothing is said in the last so many samples; 5 ms of fade before them."""
    end, fade = max(0, len(audio) - samples), 80
    audio[end:] = 0
    if end > fade:
        audio[end - fade : end] *= np.linspace(1, 0, fade, dtype=np.float32)


def background(sources: Sources, how: Composition, n: int, rng: np.random.Generator) -> np.ndarray:
    """n samples of what sounds besides the talker, relative to speech of level 1: noises, babble, the room's hum."""
    noise: np.ndarray = np.zeros(n, np.float32)
    kinds = []
    if rng.random() < how.noises and sources.noise:
        recorded = sources.loud if sources.loud and rng.random() < 0.2 else sources.noise
        kinds.append(data.to_float(excerpt(pick(recorded, rng), n, rng)))
    if rng.random() < how.second_noises and sources.noise:
        kinds.append(data.to_float(excerpt(pick(sources.noise, rng), n, rng)))
    if rng.random() < how.babble and sources.speech:
        kinds.append(sum((data.to_float(excerpt(pick(sources.speech, rng), n, rng)) for _ in range(4)), noise))
    if rng.random() < how.hums:
        kinds.append(excerpt(pick(sources.hums, rng), n, rng))
    for kind in kinds:
        level = float(np.sqrt(np.square(kind).mean()))
        noise = noise + kind * (decibels(-noise_ratio(rng)) / max(level, 1e-5))
    if rng.random() < how.floors:  # else digital silence between the words
        noise = noise + excerpt(pick(sources.hums, rng), n, rng) * decibels(-rng.uniform(25, 65))
    return noise


def noise_ratio(rng: np.random.Generator) -> float:
    """Signal to noise in dB: −4…36, half of all below 10, as it is there that much is to be learnt."""
    return -4 + 40 * rng.random() ** 1.5
