"""How long a bundle takes for a second of audio, on this machine."""

import statistics
import time

import numpy as np

from runtime import listen
from runtime.bundle.engine import Engine
from runtime.bundle.shipped import find, shipped
from runtime.errors import BundleError
from runtime.sample_rate import SAMPLE_RATE

SECONDS = 20  # of audio


def main(bundles: list[str]) -> int:
    """Print a line for each bundle; those that are named, or all shipped ones."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(SECONDS * SAMPLE_RATE, np.float32)
    print(f"{'bundle':20} {'load, ms':>9} {'step, µs':>9} {'CPU, %':>7}")
    for name in bundles or shipped():
        try:
            began = time.perf_counter()
            engine = Engine(find(name))
            loaded = time.perf_counter() - began
        except BundleError as error:
            listen.fail(str(error))
        taken = []
        for start in range(0, len(noise) - engine.hop_samples + 1, engine.hop_samples):
            began = time.perf_counter()
            engine.step(noise[start : start + engine.hop_samples])
            taken.append(time.perf_counter() - began)
        step = statistics.median(taken)
        share = 100 * step * SAMPLE_RATE / engine.hop_samples
        print(f"{name:20} {1e3 * loaded:9.0f} {1e6 * step:9.0f} {share:7.2f}")
    return 0
