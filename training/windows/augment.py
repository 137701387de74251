"""What happens to speech before it reaches a microphone: speed, rooms, noise, level; and to features after it.

All of it works on float32 arrays and draws from the generator it is given, so a training window is a function of its
number alone.
"""

import functools
from collections.abc import Iterable

import numpy as np
import soxr
import torch

from training.data.noises import decibels, low_noise
from training.data.recordings import SAMPLE_RATE, speech_level, spoken_part
from training.model.features import N_MELS

AROUND = SAMPLE_RATE // 2  # half a second of low noise before and after a clip that is tested


def change_speed(audio: np.ndarray, factor: float) -> np.ndarray:
    """Speed and pitch together, as a tape does: factor 1.1 is 10 % faster and higher."""
    return soxr.resample(audio, SAMPLE_RATE * factor, SAMPLE_RATE, quality="QQ")


def band_limited(audio: np.ndarray, limit: float) -> np.ndarray:
    """Without what is above `limit` Hz."""
    narrow = soxr.resample(np.append(audio, np.zeros(64, np.float32)), SAMPLE_RATE, 2 * limit)
    return soxr.resample(narrow, 2 * limit, SAMPLE_RATE)[: len(audio)]


def worn(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech as 8-bit recordings, overdriven amplifiers and telephones have it."""
    peak, kind = float(np.abs(audio).max()) + 1e-9, rng.integers(3)
    if kind == 0:
        return np.round(audio / peak * 127) * (peak / 127)
    if kind == 1:
        return np.clip(audio, -peak * (limit := rng.uniform(0.05, 0.5)), peak * limit)
    narrow = band_limited(audio, 3400) / peak  # then 8 bits of a logarithm: ITU-T G.711
    code = np.round(np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256) * 127) / 127
    return peak * np.sign(code) * (np.power(256, np.abs(code)) - 1) / 255


@functools.cache
def room_responses(n: int, seed: int) -> list[np.ndarray]:
    """Impulse responses of n shoebox rooms by the image-source method (pyroomacoustics; Allen & Berkley 1979).

    Walls 2…9 m apart, reverberation time 0.1…0.8 s, talker and microphone anywhere in the room. Each begins with the
    direct sound and has unit energy in its first 50 ms, so that neither timing nor level of speech changes.
    """
    import pyroomacoustics as room_acoustics

    rng = np.random.default_rng([seed, 0x800])
    responses: list[np.ndarray] = []
    while len(responses) < n:
        walls = rng.uniform([2, 2, 2.2], [9, 7, 3.5])
        try:
            absorption, order = room_acoustics.inverse_sabine(rng.uniform(0.1, 0.8), walls)
        except ValueError:  # no material is absorbing enough for that time in that room
            continue
        room = room_acoustics.ShoeBox(
            walls, fs=SAMPLE_RATE, materials=room_acoustics.Material(absorption), max_order=min(order, 12)
        )
        room.add_source(rng.uniform(0.3, walls - 0.3))
        room.add_microphone(rng.uniform(0.3, walls - 0.3))
        room.compute_rir()
        response = np.asarray(room.rir[0][0], np.float32)
        start = max(0, int(np.argmax(np.abs(response) > 0.3 * np.abs(response).max())) - 8)
        response = response[start : start + SAMPLE_RATE // 2]
        responses.append(response / np.sqrt(np.square(response[:800]).sum()))
    return responses


def in_room(audio: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolution, cut to the length of `audio`."""
    size = 1 << (len(audio) + len(response) - 2).bit_length()
    dry, room = (torch.fft.rfft(torch.from_numpy(signal), size) for signal in (audio, response))
    return torch.fft.irfft(dry * room)[: len(audio)].numpy()


def spoken_in(
    clip: np.ndarray, noises: list[np.ndarray], rooms: list[np.ndarray], snr: float | None, rng: np.random.Generator
) -> np.ndarray:
    """A clip for a test, with half a second before and after it; with `snr` in dB in a random room and in random noise.
    Draws the same either way."""
    room, noise = rooms[int(rng.integers(len(rooms)))], noises[int(rng.integers(len(noises)))]
    n = len(clip) + 2 * AROUND
    around = np.resize(np.roll(noise, -int(rng.integers(len(noise)))), n)
    segment = low_noise(n, rng)
    segment[AROUND : AROUND + len(clip)] += clip if snr is None else in_room(clip, room)
    if snr is not None:
        level = np.sqrt(np.square(around).mean()) + 1e-9
        segment += fade(around, 800) * (speech_level(clip) / level * decibels(-snr))
    return segment


def cut_short(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The first or the last third to half of a spoken word: what must not be taken for all of it."""
    start, end = spoken_part(audio)
    share = int((end - start) * rng.uniform(0.3, 0.5))
    return fade(audio[:start + share] if rng.random() < 0.7 else audio[end - share :])


def fade(audio: np.ndarray, samples: int = 80) -> np.ndarray:
    """5 ms of fade at both ends: a click at a cut would tell the model where it is."""
    audio = audio.copy()
    n = min(samples, len(audio) // 2)
    ramp = np.linspace(0, 1, n, dtype=np.float32)
    audio[:n] *= ramp
    audio[len(audio) - n :] *= ramp[::-1]
    return audio


def warps(factors: Iterable[float]) -> torch.Tensor:
    """(factors, 40, 40): frames @ warp moves what stood at frequency f to f · factor, by linear interpolation between
    mel bands; a vocal tract of another length (Jaitly & Hinton 2013)."""
    mel = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), N_MELS + 2)[1:-1]  # centres of the HTK bands
    hertz = 700 * (10 ** (mel / 2595) - 1)
    matrices = []
    for factor in factors:
        at = np.interp(2595 * np.log10(1 + hertz / factor / 700), mel, np.arange(N_MELS))
        low = np.minimum(at.astype(int), N_MELS - 2)
        matrix = np.zeros((N_MELS, N_MELS), np.float32)
        matrix[low, np.arange(N_MELS)] = 1 - (at - low)
        matrix[low + 1, np.arange(N_MELS)] = at - low
        matrices.append(matrix)
    return torch.from_numpy(np.stack(matrices))


WARPS = warps([1.0] * 6 + [0.88, 0.91, 0.94, 0.97, 1.03, 1.06, 1.1, 1.14])  # half of all as they are


def colour_and_mask(frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A talker of another size, a microphone's frequency response, and SpecAugment (Park et al. 2019), drawn for each
    window: (batch, n, 40) frames above the floor.

    A response adds a constant to each log-mel band; here a smooth curve of up to ±9 dB. Masks are up to 10 frames or 6
    bands, filled with the window's mean.
    """
    batch, n, bands = frames.shape
    frames = torch.bmm(frames, WARPS[rng.integers(len(WARPS), size=batch)])
    strength = rng.uniform(0, 4, (batch, 1)) * (rng.random((batch, 1)) < 0.7)
    knots = rng.standard_normal((batch, 5)) * strength * (np.log(10) / 10)
    curves = np.array([np.interp(np.linspace(0, 4, bands), np.arange(5), row) for row in knots], np.float32)
    heard = (frames > 0).float()
    frames = frames.add_(torch.from_numpy(curves).unsqueeze(1)).clamp_(min=0).mul_(heard)
    means = frames.mean((1, 2))
    for window in np.flatnonzero(rng.random(batch) < 0.3):
        at, width = rng.integers(n), rng.integers(1, 11)
        frames[window, at : at + width] = means[window]
    for window in np.flatnonzero(rng.random(batch) < 0.3):
        at, width = rng.integers(bands), rng.integers(1, 7)
        frames[window, :, at : at + width] = means[window]
    return frames
