"""Audio that is loud where something is said, in a room that hums a little."""

import numpy as np

RATE = 16_000


def room(seconds: float, level: float = 1e-3) -> np.ndarray:
    rng = np.random.default_rng(int(seconds * 1000))
    return (rng.standard_normal(int(seconds * RATE)) * level).astype(np.float32)


def word(seconds: float = 0.6, peak: float = 0.3) -> np.ndarray:
    """Three syllables, each quieter than the one before it, of pulses as a voice has them."""
    time = np.arange(int(seconds * RATE)) / RATE
    syllables = (0.55 - 0.45 * np.cos(2 * np.pi * 3 * time / seconds)) * (1 - 0.4 * time / seconds)
    pulses = sum(np.cos(2 * np.pi * 120 * n * time) for n in range(1, 20)) / 19
    return (peak * syllables * pulses).astype(np.float32)


def takes_of(n: int, **how: float) -> np.ndarray:
    """n words with pauses before, between and after them."""
    return np.concatenate([room(1)] + n * [word(**how), room(1)])
