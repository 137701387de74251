"""The C engine's own exp, log, sigmoid, tanh and sine, and the log-mel frames that it makes."""

import numpy as np
import pytest
from c_files import audio, weights

from runtime.c.library import CEngine
from training.model.features import FLOOR, FRAME_STEP, N_FFT, N_MELS, TAIL, mel_filters

BOUNDS = {"exponential": 1e-7, "logarithm": 1.5e-7, "sigmoid": 1e-7, "tangent": 2e-7}  # in the order of internals.c
EVERY = 4001  # of so many floats


def check_bounds(loaded, stride: int) -> None:
    for function, (name, bound) in enumerate(BOUNDS.items()):
        assert 0 < loaded.largest_error(function, stride) < bound, name


def test_errors_of_the_functions(internals):
    check_bounds(internals(), EVERY)


def test_errors_without_vectors_or_contraction(internals):
    check_bounds(internals("-O1", "-ffp-contract=off"), EVERY)


@pytest.mark.slow
def test_errors_of_the_functions_over_all_floats(internals):
    check_bounds(internals(), 1)


def test_sines(internals):
    assert internals().largest_sine_error() < 1e-7


def exact_frames(sound: np.ndarray) -> np.ndarray:
    """Log-mel frames above the floor in double precision, of a stream that starts with `sound`: (frames, 40)."""
    padded = np.concatenate([np.zeros(TAIL), sound.astype(np.float64)])
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::FRAME_STEP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    power = np.abs(np.fft.rfft(frames * window)[:, 1 : N_FFT // 2]) ** 2
    return np.log(np.maximum(power @ mel_filters().double().numpy() / FLOOR, 1))


@pytest.mark.parametrize("lanes", [1, 3, 4, 8, 16])
def test_frames_are_those_of_the_contract(internals, lanes):
    loaded = internals(f"-DEARSHOT_LANES={lanes}")
    engine = CEngine(weights("happy-tiny"))
    frames = loaded.frames_of(engine._engine)
    found = []
    for hop in audio().reshape(-1, engine.hop_samples):
        engine.step(hop)
        found.append(np.ctypeslib.as_array(frames, (8 * N_MELS,)).reshape(8, N_MELS).copy())
    wanted = exact_frames(audio())
    assert wanted.max() > 20
    np.testing.assert_allclose(np.concatenate(found), wanted, rtol=0, atol=1e-3)


def test_silence_is_exactly_zero(internals):
    loaded = internals()
    engine = CEngine(weights("happy-tiny"))
    engine.step(np.zeros(engine.hop_samples, np.float32))
    assert not np.ctypeslib.as_array(loaded.frames_of(engine._engine), (8 * N_MELS,)).any()
