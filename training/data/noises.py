"""Noise made from a seed: a quiet room, stationary noise, and loud sounds (bursts, packed bytes as audio, tones,
clicks, claps, slams).

Detectors have false accepts in loud sounds with hard edges, too; recordings of noise are quieter, longer and softer.
"""

import zlib

import numpy as np
import torch

from training.data.recordings import SAMPLE_RATE

SECONDS = 60  # of a recording


def decibels(value: float) -> float:
    """dB → factor of amplitude"""
    return float(10 ** (value / 20))


def low_noise(n: int, rng: np.random.Generator) -> np.ndarray:
    """A quiet room: white noise 60 dB below full scale."""
    return (rng.standard_normal(n) * 1e-3).astype(np.float32)


def coloured_noise(n: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Stationary Gaussian noise of unit level. Its power falls by `slope` dB per octave: 0 white, 3 pink, 6 brown."""
    size = 1 << (n - 1).bit_length()
    spectrum = torch.fft.rfft(torch.from_numpy(rng.standard_normal(size, np.float32)))
    octaves = torch.log2(torch.arange(1, size // 2 + 2) / 64)
    noise = torch.fft.irfft(spectrum * 10 ** (-slope / 20 * octaves.clamp(min=0)))[:n].numpy()
    return noise / np.sqrt(np.square(noise).mean())


def noise(seed: tuple[int, int]) -> np.ndarray:
    """A minute of sounds and gaps of digital silence, int16; most of it is at full scale."""
    rng = np.random.default_rng([*seed, 0x401])
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < SECONDS * SAMPLE_RATE:
        make = SOUNDS[int(rng.integers(len(SOUNDS)))]
        level = 1.0 if rng.random() < 0.7 else decibels(-rng.uniform(0, 30))
        for _ in range(int(rng.integers(1, 5))):
            sound = make(int(rng.uniform(0.05, 3) * SAMPLE_RATE), rng)
            pieces += [level * sound / max(np.abs(sound).max(), 1e-6), gap(rng)]
    track = np.concatenate(pieces)[: SECONDS * SAMPLE_RATE]
    return (track * 32767).astype(np.int16)


def gap(rng: np.random.Generator) -> np.ndarray:
    return np.zeros(int(rng.choice([0, rng.uniform(0, 0.3), rng.uniform(0.3, 2)]) * SAMPLE_RATE), np.float32)


def burst(n: int, rng: np.random.Generator) -> np.ndarray:
    """White to brown noise, clipped or not."""
    sound = coloured_noise(n, float(rng.choice([0, 0, 3, 6])), rng)
    return np.clip(sound, -1, 1) if rng.random() < 0.5 else sound


def packed(n: int, rng: np.random.Generator) -> np.ndarray:
    """The deflated bytes of repetitive data, read as 8-bit audio at 8 or 16 kHz."""
    slow = int(rng.choice([1, 1, 2]))
    content = zlib.compress(rng.integers(0, rng.integers(3, 100), 6 * (n // slow) + 100).astype(np.uint8).tobytes(), 9)
    samples = np.frombuffer(content, np.uint8)[: n // slow + 1].astype(np.float32) / 128 - 1
    return np.repeat(np.resize(samples, n // slow + 1), slow)[:n]


def tone(n: int, rng: np.random.Generator) -> np.ndarray:
    """A sine, square or saw, of one pitch, gliding, or wavering as a siren."""
    time = np.arange(n) / SAMPLE_RATE
    low, high = np.exp(rng.uniform(np.log(60), np.log(7000), 2))
    glide = rng.choice([0, 1, 1]) * time / time[-1]
    if rng.random() < 0.3:
        glide = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(1, 12) * time)
    phase = 2 * np.pi * np.cumsum(low * (high / low) ** glide) / SAMPLE_RATE
    shape = rng.integers(3)
    return np.sin(phase) if shape == 0 else np.sign(np.sin(phase)) if shape == 1 else phase / np.pi % 2 - 1


def beeps(n: int, rng: np.random.Generator) -> np.ndarray:
    """Tones of a telephone's keys (DTMF)."""
    time, length = np.arange(n) / SAMPLE_RATE, rng.uniform(0.04, 0.25)
    keys = rng.integers(0, 4, (int(time[-1] / length) + 1, 2))[(time / length).astype(int)]
    rows, columns = np.array([697, 770, 852, 941])[keys[:, 0]], np.array([1209, 1336, 1477, 1633])[keys[:, 1]]
    on = time / length % 1 < rng.uniform(0.4, 1)
    return (np.sin(2 * np.pi * rows * time) + np.sin(2 * np.pi * columns * time)) * on


def clicks(n: int, rng: np.random.Generator) -> np.ndarray:
    """Single samples and steps, at random or at a rate."""
    sound = np.zeros(n, np.float32)
    at = rng.integers(0, n, 1 + n // int(rng.integers(200, 8000)))
    if rng.random() < 0.5:
        at = np.arange(0, n, int(rng.integers(40, 4000)))
    for offset in range(int(rng.integers(1, 30))):
        sound[np.minimum(at + offset, n - 1)] = 1
    return sound


def applause(n: int, rng: np.random.Generator) -> np.ndarray:
    """Claps of many hands: each a few milliseconds of noise."""
    hiss, sound = coloured_noise(n + SAMPLE_RATE, rng.uniform(0, 6), rng), np.zeros(n + SAMPLE_RATE, np.float32)
    time = np.arange(960) / SAMPLE_RATE
    for at in rng.integers(0, n, 1 + int(n / SAMPLE_RATE * rng.uniform(3, 120))):
        clap = np.exp(-time / rng.uniform(0.002, 0.012)) * hiss[at : at + len(time)]
        sound[at : at + len(time)] += rng.uniform(0.2, 1) * clap
    return sound[:n]


def slam(n: int, rng: np.random.Generator) -> np.ndarray:
    """A door, a drum, a dropped pan: a hard onset that decays, low or ringing."""
    time = np.arange(n) / SAMPLE_RATE
    sound = coloured_noise(n, rng.uniform(0, 6), rng) * np.exp(-time / rng.uniform(0.02, 0.5))
    if rng.random() < 0.5:
        ring = sum(np.sin(2 * np.pi * rng.uniform(60, 3000) * time) for _ in range(4))
        sound = sound + ring * np.exp(-time / rng.uniform(0.05, 0.6))
    return sound


SOUNDS = (burst, burst, packed, tone, beeps, clicks, applause, slam)
