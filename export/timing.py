"""Time of one step in each form: one thread, all forms in turn, so that other load slows all alike."""

import time
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch

from export.detector import Detector
from export.verify import Array, Form
from training.model.crnn import CRNN, State, log_odds

ROUNDS, STEPS = 40, 20  # of STEPS of each form in a row; one more round warms up


def step_times(detector: Detector, forms: dict[str, Form], audio: Array) -> dict[str, float]:
    """Median microseconds of one step, by name of the form, and of the trained model in eager PyTorch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measured: dict[str, list[float]] = {name: [] for name in ("torch eager", *forms)}
        for _ in range(ROUNDS + 1):
            for name, form in (("torch eager", eager_form(detector.model)), *forms.items()):
                measured[name] += time_steps(form, detector, audio)
    finally:
        torch.set_num_threads(threads)
    return {name: round(median(times[STEPS:]), 1) for name, times in measured.items()}


def time_steps(form: Form, detector: Detector, audio: Array) -> list[float]:
    """Microseconds of each of `STEPS` steps."""
    states: Sequence[Array] = detector.zeros()
    times = []
    for index in range(STEPS):
        start = index * detector.hop_samples
        hop = np.ascontiguousarray(audio[None, start : start + detector.hop_samples])
        before = time.perf_counter_ns()
        _, *states = form(hop, states)
        times.append((time.perf_counter_ns() - before) / 1000)
    return times


def eager_form(model: CRNN) -> Form:
    """The trained model itself, hop by hop. It keeps its own state; a new form starts from zeros."""
    state: State = model.zero_state()

    def step(audio: Array, _: Sequence[Array]) -> list[Array]:
        nonlocal state
        with torch.inference_mode():
            output, state = model(torch.from_numpy(audio), state)
            return [torch.sigmoid(log_odds(output.logits))[0].numpy()]

    return step
