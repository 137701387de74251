"""Audio to verify an export with: deterministic, made by numpy alone, and with the spectrum and envelope of speech.

An export has no recordings. Comparing two forms of one model needs audio that drives every part of it: syllables
(voiced pulses through moving formants, fricative noise) at changing pitch and level, bursts, a steady tone, full scale
with clipping, a whisper, digital silence, and sounds that the model itself takes for its keywords.
"""

import math
import wave
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.detector import Detector
from training.model.crnn import CRNN, log_odds
from training.model.features import SAMPLE_RATE

Audio = NDArray[np.float32]
SEED = 1
HISS = 3e-4  # of a microphone
SURE = 4.0  # log-odds: a score of 0.98
NOISE = 3e-3
LEAST_STEPS, MOST_STEPS = 40, 400

FORMANTS = np.array(  # Hz, of vowels (Peterson & Barney 1952, men): i, ɪ, ɛ, æ, ɑ, ɔ, ʊ, u
    [
        [270, 2290, 3010],
        [390, 1990, 2550],
        [530, 1840, 2480],
        [660, 1720, 2410],
        [730, 1090, 2440],
        [570, 840, 2410],
        [440, 1020, 2240],
        [300, 870, 2240],
    ]
)


def verification_audio(keywords: Audio) -> Audio:
    """24 s that are the same for all models, then the model's own `keyword_audio`: 16 kHz, −1…1."""
    return np.concatenate([synthesise(), keywords])


def keyword_audio(detector: Detector) -> Audio:
    """For each keyword in turn a second of faint noise, 1.6 s that the model takes for it, and half a second."""
    parts: list[Audio] = []
    for index, threshold in enumerate(detector.thresholds):
        target = max(SURE, math.log(threshold / (1 - threshold)) + 1)
        parts += [hiss(1.0), provoke(detector.model, index, target), hiss(0.5)]
    return np.concatenate(parts)


def hiss(seconds: float) -> Audio:
    return np.random.default_rng(SEED).normal(0, HISS, round(seconds * SAMPLE_RATE)).astype(np.float32)


def synthesise() -> Audio:
    rng = np.random.default_rng(SEED)
    sounds: list[NDArray[np.floating]] = [
        babble(rng, 6.0) * 0.1,
        babble(rng, 4.0) * np.geomspace(1e-3, 1, 4 * SAMPLE_RATE),  # from a whisper to loud
        np.clip(babble(rng, 2.0) * 4, -1, 1),
        rng.normal(0, 0.05, 2 * SAMPLE_RATE),
        0.3 * np.sin(2 * np.pi * 1000 * np.arange(SAMPLE_RATE) / SAMPLE_RATE),
        np.zeros(SAMPLE_RATE),
        babble(rng, 5.0) * 0.3 + rng.normal(0, 0.01, 5 * SAMPLE_RATE),
        rng.uniform(-1, 1, SAMPLE_RATE) * (rng.random(SAMPLE_RATE) < 0.001),  # clicks
    ]
    sound = np.concatenate(sounds)
    # A microphone's own hiss. A loud sound without any leaves its empty bands, just above the floor of the logarithm,
    # to float32's rounding errors: there any two ways to sum differ by 0.01, and so do FFT and matrix product.
    sound += rng.normal(0, HISS, len(sound))
    silence = np.zeros(SAMPLE_RATE)
    return np.concatenate([silence, np.clip(sound, -1, 1), silence]).astype(np.float32)


def babble(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    """Syllables after one another, peak about 1."""
    length = int(seconds * SAMPLE_RATE)
    out: list[NDArray[np.float64]] = []
    while sum(map(len, out)) < length:
        onset = rng.normal(0, 1, int(rng.uniform(0.03, 0.12) * SAMPLE_RATE))
        out.append(0.2 * np.diff(onset, prepend=0) * np.hanning(len(onset)))  # a fricative: noise, brighter by 6 dB/oct
        out.append(vowel(rng, rng.uniform(0.1, 0.3)))
        out.append(np.zeros(int(rng.exponential(0.05) * SAMPLE_RATE)))
    return np.concatenate(out)[:length]


def vowel(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    """Harmonics of a gliding pitch, weighted by formants that move from one vowel to another."""
    n = int(seconds * SAMPLE_RATE)
    glide = np.linspace(0, 1, n)
    pitch = rng.uniform(90, 250) * (1 + rng.uniform(-0.3, 0.3) * glide)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    start, end = FORMANTS[rng.integers(len(FORMANTS), size=2)]
    formants = start[:, None] + (end - start)[:, None] * glide
    out = np.zeros(n)
    for harmonic in range(1, int(4000 / pitch.min())):
        distance = (harmonic * pitch - formants) / np.array([[80.0], [120.0], [160.0]])
        out += np.sin(harmonic * phase) * (1 / (1 + distance**2)).sum(0)
    return out / np.abs(out).max() * np.hanning(n)


def provoke(model: CRNN, keyword: int, target: float, seconds: float = 1.6) -> Audio:
    """Noise turned by gradient ascent into what the model takes for a keyword (after Simonyan et al. 2014): from zero
    state, after hiss, and after speech.

    A good model scores 0 over all of `synthesise`, where two forms cannot differ much. This makes any model's score
    rise above the threshold. keyword: its index; target: log-odds.
    """
    hop, random = model.size.hop_samples, torch.Generator().manual_seed(SEED)
    length = round(seconds * SAMPLE_RATE) // hop * hop
    talk, quiet = babble(np.random.default_rng(SEED), seconds)[:length] * 0.1, hiss(seconds)[:length]
    before = torch.from_numpy(np.stack([np.zeros(length), quiet, talk]).astype(np.float32))
    audio = (0.02 * torch.randn(1, length, generator=random)).requires_grad_()
    optimizer = torch.optim.Adam([audio], lr=3e-3)
    with torch.enable_grad():
        for step in range(MOST_STEPS):
            stream = torch.cat([before, audio + NOISE * torch.randn(before.shape, generator=random)], dim=1)
            shift = int(torch.randint(hop, (), generator=random))  # it may begin anywhere in a hop
            stream = stream[:, shift : 2 * length - hop + shift]
            odds = log_odds(model(stream, model.zero_state(len(stream)))[0].logits)[:, -length // hop // 3 :, keyword]
            odds = odds.clamp(max=target).mean(1)
            if step >= LEAST_STEPS and odds.min() > target - 0.5:
                break
            (audio.grad,) = torch.autograd.grad(-odds.mean(), audio)
            optimizer.step()
    return audio.detach()[0].clamp(-1, 1).numpy()


def write_wav(path: Path, audio: Audio) -> None:
    """audio: (samples,), −1…1; 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(np.round(audio * 32767).astype("<i2").tobytes())
