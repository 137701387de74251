"""Check that every form of a bundle computes the trained model's scores. Otherwise the export fails.

The reference is the trained model's own forward over the whole recording in one call. Each form runs as any reader of
the bundle would run it: hop by hop, by plain onnxruntime, libtorch or the C engine, from states of zeros.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from export.detector import Detector
from export.forms.onnx import metadata
from export.forms.torchscript import load_torchscript
from export.step.step import offline_scores, state_shapes
from runtime.c.library import CEngine, LibraryError

Array = NDArray[np.float32]
Form = Callable[[Array, Sequence[Array]], list[Array]]  # audio (1, hop), states → score (1, keywords), next states


@dataclass(frozen=True)
class Tolerance:
    """Of |score − offline score|: the largest over all hops and keywords, and the mean."""

    largest: float
    mean: float


# Float forms: the contract's 1e-4. They differ from the reference by the order of sums. Measured on this audio: at most
# 5e-6 for two trained models of the base size, 1e-5 for one with large random weights; 2e-5 over 500 real clips.
# int8: measured on this audio at most 0.021 (mean 0.0012) for happy-base with all its products in int8, and up to 0.06
# for candidates that this refuses. This tolerance detects a broken file. The loss by int8 is measured on real clips
# (export.int8.measure, edge_demo.evaluate.compare).
TOLERANCES = {
    "model.onnx": Tolerance(1e-4, 1e-5),
    "model.torchscript": Tolerance(1e-4, 1e-5),
    "model.int8.onnx": Tolerance(0.05, 0.005),
    "model.bin": Tolerance(1e-4, 1e-5),
    "model.int8.bin": Tolerance(0.05, 0.005),
}
AFTER_RESET = 1e-6  # of the second run from zeros against the first: the same sums; libtorch may fuse after a warm-up


class VerifyError(Exception):
    """A form that does not agree with the trained model; the message is one line."""


@dataclass(frozen=True)
class Parity:
    largest: float
    mean: float
    scores: Array  # (hops, keywords)


def verify(detector: Detector, audio: Array, forms: dict[str, Form]) -> dict[str, Parity]:
    """Each form by its file's name, against the offline model. Raises VerifyError."""
    reference = offline_scores(detector.model, torch.from_numpy(audio)).numpy()
    if not np.isfinite(reference).all():
        raise VerifyError("the trained model's own scores are not finite; train it again")
    return {name: compare(name, form, detector, audio, reference) for name, form in forms.items()}


def compare(name: str, form: Form, detector: Detector, audio: Array, reference: Array) -> Parity:
    scores = stream(name, form, detector, audio)
    difference = np.abs(scores - reference)
    largest, mean, allowed = float(difference.max()), float(difference.mean()), TOLERANCES[name]
    if largest > allowed.largest or mean > allowed.mean:
        hop = int(difference.max(axis=1).argmax())
        raise VerifyError(
            f"{name} does not agree with the trained model: score differs by {largest:.2g} at hop {hop} (allowed "
            f"{allowed.largest:g}), by {mean:.2g} on average (allowed {allowed.mean:g})"
        )
    again = float(np.abs(stream(name, form, detector, audio) - scores).max())
    if again > AFTER_RESET:
        raise VerifyError(f"{name} keeps state across a reset: the second run on the same audio differs by {again:.2g}")
    return Parity(largest, mean, scores)


def stream(name: str, form: Form, detector: Detector, audio: Array) -> Array:
    """A recording (samples,) hop by hop from states of zeros → scores (hops, keywords)."""
    states = detector.zeros()
    shapes = [state.shape for state in states]
    scores = []
    for start in range(0, len(audio) - detector.hop_samples + 1, detector.hop_samples):
        score, *states = form(audio[None, start : start + detector.hop_samples], states)
        if not all(np.isfinite(array).all() for array in (score, *states)):
            raise VerifyError(f"{name}: score or state is not finite at {start / detector.sample_rate:.2f} s")
        if [state.shape for state in states] != shapes or score.shape != (1, len(detector.keywords)):
            raise VerifyError(f"{name}: the step returns other shapes than the contract's")
        scores.append(score[0])
    return np.stack(scores)


def onnx_form(path: Path, detector: Detector) -> Form:
    """The file in onnxruntime: one thread, no spinning. Raises VerifyError when it breaks the contract."""
    session = one_thread_session(path)
    inputs = [(i.name, tuple(i.shape), i.type) for i in session.get_inputs()]
    outputs = [(o.name, tuple(o.shape), o.type) for o in session.get_outputs()]
    states = state_shapes(detector.model.size)
    contract_inputs = {"audio": (1, detector.hop_samples)} | states
    contract_outputs = {"score": (1, len(detector.keywords))} | {f"{n}_next": shape for n, shape in states.items()}
    for have, contract in ((inputs, contract_inputs), (outputs, contract_outputs)):
        if have != [(name, shape, "tensor(float)") for name, shape in contract.items()]:
            raise VerifyError(f"{path.name} breaks the contract: has {have}, needs {list(contract.items())}")
    if session.get_modelmeta().custom_metadata_map != metadata(detector):
        raise VerifyError(f"{path.name} breaks the contract: its metadata are not the detector's")
    names = [name for name, _, _ in inputs]

    def step(audio: Array, states: Sequence[Array]) -> list[Array]:
        result: list[Array] = session.run(None, dict(zip(names, (audio, *states), strict=True)))
        return result

    return step


def one_thread_session(model: Path | bytes, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """As on the device. model: a file or its content; optimized: where to write the graph after optimization."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # no warning that an optimized graph is of this machine alone
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def torchscript_form(path: Path) -> Form:
    module = load_torchscript(path)

    def step(audio: Array, states: Sequence[Array]) -> list[Array]:
        with torch.inference_mode():
            return [tensor.numpy() for tensor in module(*map(torch.from_numpy, (audio, *states)))]

    return step


def binary_form(path: Path, detector: Detector) -> Form:
    """The file in the C engine, which keeps its states to itself: a stream begins with states that it has not seen.

    Raises VerifyError when the engine refuses the file or reads another detector in it.
    """
    try:
        engine = CEngine(path.read_bytes())
    except LibraryError as error:
        raise VerifyError(f"{path.name}: {error}") from None
    told = engine.keywords, engine.hop_samples, engine.refractory_hops
    if told != (tuple(detector.keywords), detector.hop_samples, detector.refractory_hops):
        raise VerifyError(f"{path.name} breaks the contract: it says {told}")
    seen: Array | None = None

    def step(audio: Array, states: Sequence[Array]) -> list[Array]:
        nonlocal seen
        if states[0] is not seen:
            engine.reset()
            seen = states[0]
        return [engine.step(audio[0])[None], *states]

    return step
