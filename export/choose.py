"""Which of the candidates becomes model.int8.onnx: measured, not believed.

Each is measured on the verification audio (agreement with the trained model, step time, size). What recordings say of
it (misses, and agreement minutes into a stream) comes with the checkpoint, in int8.json: `python -m export.measure`
writes it, as an export has no recordings. Without that file the verification audio calibrates and decides alone, and
the report says so.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from export.detector import Detector
from export.quantize import CANDIDATES, FRONT_END, RING, precision
from export.timing import step_times
from export.verify import TOLERANCES, Array, VerifyError, onnx_form, stream

SLOWER = 1.2  # times the fastest of those that may be chosen


class Trial(NamedTuple):
    """One candidate, measured."""

    bytes: int
    largest: float  # difference of scores on the verification audio; infinite where they are no numbers
    mean: float
    step_us: float
    left_float: list[str]  # nodes of the network proper with weights
    misses: float | None  # more missed clips than in float, as a share; None: not measured on recordings
    heard: float | None  # mean difference of scores on recordings


def try_all(
    detector: Detector, sources: dict[type, Path], files: dict[str, Path], audio: Array, reference: Array
) -> dict[str, Trial]:
    """Every candidate measured, by name.

    sources, files: of export.quantize; audio: (samples,); reference: the trained model's scores, (hops, keywords).
    """
    forms = {name: onnx_form(path, detector) for name, path in files.items()}
    agreement = {}
    for name, form in list(forms.items()):
        try:
            difference = np.abs(stream(name, form, detector, audio) - reference)
            agreement[name] = float(difference.max()), float(difference.mean())
        except VerifyError:
            agreement[name] = math.inf, math.inf
            del forms[name]
    times = step_times(detector, forms, audio)
    recorded = detector.recorded.get("candidates", {})
    found = {}
    for name, path in files.items():
        kinds = precision(sources[CANDIDATES[name].cell], path)
        left_float = [node for node, integer in kinds.items() if not integer and not node.startswith(FRONT_END)]
        said = recorded.get(name, {})
        found[name] = Trial(
            path.stat().st_size,
            *agreement[name],
            times.get(name, math.inf),
            left_float,
            said.get("more_misses"),
            said.get("mean_difference"),
        )
    return found


def choose(found: dict[str, Trial]) -> str:
    """Of the candidates that agree with the trained model and miss no more clips than float does: those that leave
    the fewest weights float; of these, those not much slower than the fastest; of these, the one nearest to float.

    Raises VerifyError when none agrees.
    """
    allowed = TOLERANCES["model.int8.onnx"]
    agreeing = {
        name: trial
        for name, trial in found.items()
        if CANDIDATES[name].method != "float" and trial.largest <= allowed.largest and trial.mean <= allowed.mean
    }
    if not agreeing:
        raise VerifyError("no int8 form of this model agrees with it; train it again, or longer")
    fewest = min(trial.misses or 0 for trial in agreeing.values())
    good = {n: t for n, t in agreeing.items() if (t.misses or 0) <= max(0.0, fewest)}
    weights = {name: len(set(trial.left_float) - {RING}) for name, trial in good.items()}  # the ring has none
    whole = {name: trial for name, trial in good.items() if weights[name] == min(weights.values())}
    fastest = min(trial.step_us for trial in whole.values())
    quick = {name: trial for name, trial in whole.items() if trial.step_us <= SLOWER * fastest}
    return min(quick, key=lambda name: quick[name].mean if quick[name].heard is None else quick[name].heard or 0.0)


def why_float(found: dict[str, Trial], chosen: str, node: str) -> str:
    """Figures of the candidates that have this node in int8, and why each was not taken."""
    reasons = []
    for name, trial in found.items():
        if CANDIDATES[name].method == "float" or node in trial.left_float:
            continue
        reasons.append(f"“{name}”: {figures(trial)}")
    return f"worse in int8: {'; '.join(reasons)}; taken: {figures(found[chosen])}" if reasons else "no int8 form of it"


def figures(trial: Trial) -> str:
    if not math.isfinite(trial.mean):
        return "scores are no numbers"
    parts = [f"scores differ by {trial.mean:.2g} on average, {trial.largest:.2g} at most, {trial.step_us:.0f} µs"]
    if trial.misses is not None:
        parts.append(f"{100 * trial.misses:+.2f} points of misses")
    return ", ".join(parts)
