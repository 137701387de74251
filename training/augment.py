"""What happens to speech before it reaches a microphone: speed, rooms, noise, level; and to features after it.

All of it works on float32 arrays and draws from the generator it is given, so a training window is a function of its
number alone.
"""

import numpy as np
import soxr
import torch

from training.data import SAMPLE_RATE, spoken_part


def decibels(value: float) -> float:
    """dB → factor of amplitude"""
    return float(10 ** (value / 20))


def change_speed(audio: np.ndarray, factor: float) -> np.ndarray:
    """Speed and pitch together, as a tape does: factor 1.1 is 10 % faster and higher."""
    return soxr.resample(audio, SAMPLE_RATE * factor, SAMPLE_RATE, quality="QQ")


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


def coloured_noise(n: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Stationary Gaussian noise of unit level whose power falls by `slope` dB per octave: 0 white, 3 pink, 6 brown."""
    size = 1 << (n - 1).bit_length()
    spectrum = torch.fft.rfft(torch.from_numpy(rng.standard_normal(size, np.float32)))
    octaves = torch.log2(torch.arange(1, size // 2 + 2) / 64)
    noise = torch.fft.irfft(spectrum * 10 ** (-slope / 20 * octaves.clamp(min=0)))[:n].numpy()
    return noise / np.sqrt(np.square(noise).mean())


def cut_short(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The first or the last third to half of a spoken word: what must not be taken for all of it."""
    start, end = spoken_part(audio)
    share = int((end - start) * rng.uniform(0.3, 0.5))
    return fade(audio[:start + share] if rng.random() < 0.7 else audio[end - share :])


def shuffled(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech cut into pieces of 80…250 ms and put together in another order: the same voice saying what nobody says,
    so that sequences of sounds are learnt from a few voices that many voices would have to say."""
    cuts = np.cumsum(rng.uniform(0.08, 0.25, len(audio) // 1280 + 1) * SAMPLE_RATE).astype(int)
    pieces = [fade(piece, 160) for piece in np.split(audio, cuts[cuts < len(audio)])]
    return np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])


def fade(audio: np.ndarray, samples: int = 80) -> np.ndarray:
    """5 ms of fade at both ends: a click at a cut would tell the model where it is."""
    audio = audio.copy()
    n = min(samples, len(audio) // 2)
    ramp = np.linspace(0, 1, n, dtype=np.float32)
    audio[:n] *= ramp
    audio[len(audio) - n :] *= ramp[::-1]
    return audio


def colour_and_mask(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A microphone's frequency response, and SpecAugment (Park et al. 2019): (n, 40) frames above the floor.

    A response adds a constant to each log-mel band; here a smooth curve of up to ±9 dB. Masks are up to 10 frames
    or 6 bands, filled with the window's mean.
    """
    if rng.random() < 0.7:
        knots = rng.normal(0, rng.uniform(0, 4), 5) * (np.log(10) / 10)
        curve = np.interp(np.linspace(0, 4, frames.shape[1]), np.arange(5), knots).astype(np.float32)
        frames = np.where(frames > 0, np.maximum(frames + curve, 0), 0)
    mean = frames.mean()
    if rng.random() < 0.3:
        at, width = rng.integers(frames.shape[0]), rng.integers(1, 11)
        frames[at : at + width] = mean
    if rng.random() < 0.3:
        at, width = rng.integers(frames.shape[1]), rng.integers(1, 7)
        frames[:, at : at + width] = mean
    return frames
