"""Which candidate becomes model.int8.onnx.

`python -m export.int8.measure` judges the candidates on recordings and writes its choice to int8.json beside the
weights. Without that file a fixed rule decides. Neither depends on the machine that exports.
"""

from export.detector import Detector
from export.int8.quantize import CANDIDATES, RING
from export.int8.recorded import Trial
from export.verify import TOLERANCES, VerifyError

UNMEASURED, TRAINED = "dynamic-convolution-float", "static-trained"  # the fixed rule; TRAINED where ranges were trained
LARGER = 1.1  # times the smallest file: the largest that may be chosen


def chosen_form(detector: Detector) -> str:
    """The candidate that its int8.json names, else the fixed rule's. Raises VerifyError for an unknown name."""
    if detector.recorded and detector.recorded.chosen:
        if detector.recorded.chosen not in CANDIDATES:
            raise VerifyError(f"int8.json names an unknown form, {detector.recorded.chosen}: measure it again")
        return detector.recorded.chosen
    return TRAINED if detector.trained_ranges else UNMEASURED


def choose(trials: dict[str, Trial]) -> str:
    """Of the candidates that agree with the trained model and miss no more clips than float does (or the fewest, where
    all miss more): those whose file is at most a tenth larger than the smallest; of these, the nearest to float.

    Raises VerifyError when none agrees.
    """
    allowed = TOLERANCES["model.int8.onnx"]
    agreeing = {n: t for n, t in trials.items() if t.largest <= allowed.largest and t.mean <= allowed.mean}
    if not agreeing:
        raise VerifyError("no int8 form of this model agrees with it; train it again, or longer")
    fewest = max(0.0, min(trial.more_misses for trial in agreeing.values()))
    good = {name: trial for name, trial in agreeing.items() if trial.more_misses <= fewest}
    smallest = min(trial.bytes for trial in good.values())
    small = [name for name, trial in good.items() if trial.bytes <= LARGER * smallest]
    return min(small, key=lambda name: good[name].mean_difference)


def why_float(trials: dict[str, Trial], chosen: str, node: str) -> str:
    """Why a node of the network is float in the chosen candidate: figures of the candidates that have it in int8."""
    if node == RING:
        return "its attention weights are exponentials: 8 bits cannot hold their range"
    others = [name for name, trial in trials.items() if node not in trial.left_float]
    if not others:
        return "the rule for a checkpoint without int8.json (see `python -m export.int8.measure`): nearest to float"
    return f"chosen: {figures(trials[chosen])}; in int8: {'; '.join(f'{n}: {figures(trials[n])}' for n in others)}"


def figures(trial: Trial) -> str:
    return (
        f"{trial.bytes / 1024:.1f} KiB, {100 * trial.more_misses:+.2f} points of misses, scores differ by "
        f"{trial.mean_difference:.2g} on average"
    )
