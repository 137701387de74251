"""Audio to verify an export with: deterministic, made of numpy alone, like speech where it matters.

An export has no recordings at hand, and needs none to compare two forms of one model: it needs audio that moves every
part of it. So: syllables (voiced pulses through moving formants, fricative noise) at changing pitch and level, bursts,
a steady tone, full scale with clipping, a whisper, and digital silence; and then what the model at hand itself takes
for its keywords.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from training.crnn import CRNN, log_odds
from training.features import SAMPLE_RATE

Audio = NDArray[np.float32]
SEED = 1

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


def verification_audio(model: CRNN) -> Audio:
    """24 s that are the same for all models, and 2.1 s for each keyword: 16 kHz, −1…1."""
    parts: list[Audio] = [synthesise()]
    for keyword in range(model.size.keywords):
        parts += [provoke(model, keyword), np.zeros(SAMPLE_RATE // 2, np.float32)]
    return np.concatenate(parts)


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
    sound += rng.normal(0, 3e-4, len(sound))
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


def provoke(model: CRNN, keyword: int, seconds: float = 1.6, steps: int = 40) -> Audio:
    """Noise turned by gradient ascent into what the model takes for a keyword (after Simonyan et al. 2014).

    A good model answers 0 to all of `verification_audio`, and then a difference of scores says little. This makes any
    model's score rise, so that verification also sees it above the threshold. `keyword`: its index.
    """
    hops = round(seconds * SAMPLE_RATE) // model.size.hop_samples
    noise = np.random.default_rng(SEED).normal(0, 0.02, hops * model.size.hop_samples)
    audio = torch.tensor(noise[None], dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.Adam([audio], lr=3e-3)
    with torch.enable_grad():
        for _ in range(steps):
            odds = log_odds(model(audio, model.zero_state())[0].logits)[0, -hops // 3 :, keyword]
            (audio.grad,) = torch.autograd.grad(-odds.clamp(max=4).mean(), audio)  # 4: a score of 0.98 is enough
            optimizer.step()
    return audio.detach()[0].clamp(-1, 1).numpy()
