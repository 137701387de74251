"""A trained model → a verified bundle."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from export.audio import keyword_audio, verification_audio, write_wav
from export.detector import Detector
from export.folder.complete import new_folder
from export.folder.manifest import manifest, write_manifest
from export.forms import binary
from export.forms.onnx import export_onnx
from export.forms.torchscript import export_torchscript
from export.int8.choose import chosen_form, why_float
from export.int8.quantize import CANDIDATES, FRONT_END, calibrate, file_of, make_candidates, precision, saturating_nodes
from export.report import executed_operations, write_report
from export.step.step import Step, offline_scores
from export.timing import step_times
from export.verify import TOLERANCES, Array, Parity, VerifyError, binary_form, onnx_form, torchscript_form, verify
from training.model.crnn import n_parameters

FLOAT, INT8, TORCHSCRIPT, KEYWORDS = "model.onnx", "model.int8.onnx", "model.torchscript", "keywords.wav"
BINARIES = {"model.bin": binary.FLOAT32, "model.int8.bin": binary.INT8}
DEFAULT = FLOAT  # nearest to the trained model, and at this size faster than int8 on every CPU that was measured


def export(
    detector: Detector, out: Path, log: Callable[[str], None] = print, also: Sequence[str] = ()
) -> dict[str, Any]:
    """Write the bundle `out`/<name> and return its manifest. `log` gets a line for each stage.

    also: candidates of export.int8.quantize that are kept too, as `file_of` names them, whether they agree or not.

    Raises VerifyError when a form does not agree with the trained model, and OSError when writing fails. Either way
    nothing is left behind, and an older bundle of that name stays.
    """
    chosen = chosen_form(detector)
    if not detector.trained_ranges and any(CANDIDATES[name].trained for name in (chosen, *also)):
        raise VerifyError("its ranges were not trained: --also keeps that form of what train.quantized_epochs leaves")
    with new_folder(out / detector.name) as folder:
        log(f"{detector.name}: writing TorchScript, ONNX, int8 ONNX, and both for the C engine")
        audio = write_forms(detector, folder, chosen, also)
        log(f"{detector.name}: verifying them against the trained model")
        forms = {name: onnx_form(folder / name, detector) for name in (FLOAT, INT8)}
        forms[TORCHSCRIPT] = torchscript_form(folder / TORCHSCRIPT)
        forms |= {name: binary_form(folder / name, detector) for name in BINARIES}
        parity = verify(detector, audio, forms)
        check_detections(detector, parity)
        log(f"{detector.name}: measuring the step, drawing the report")
        measured = measure(detector, folder, audio, parity, step_times(detector, forms, audio), chosen)
        reference = offline_scores(detector.model, torch.from_numpy(audio)).numpy()
        write_report(folder, detector, measured, reference, parity, float_nodes(detector, folder, chosen))
        content = manifest(detector, folder, DEFAULT, measured, [file_of(name) for name in also])
        write_manifest(content, folder)  # last: a folder with a manifest is a bundle
    return content


def write_forms(detector: Detector, folder: Path, chosen: str, also: Sequence[str]) -> Array:
    """Every model file, and KEYWORDS; returns the audio to verify them with. Raises VerifyError."""
    export_torchscript(Step(detector.model, torch.float64), folder / TORCHSCRIPT)
    export_onnx(Step(detector.model), detector, folder / FLOAT)
    keywords = keyword_audio(detector)
    write_wav(folder / KEYWORDS, keywords)
    audio = verification_audio(keywords)
    write_binaries(detector, folder, audio)
    write_int8(detector, folder, audio, chosen, also)
    return audio


def check_detections(detector: Detector, parity: dict[str, Parity]) -> None:
    """Raises VerifyError when a form misses a keyword in KEYWORDS, which the verification audio ends with."""
    for name, one in parity.items():
        highest = one.scores.max(axis=0)
        for keyword, threshold, score in zip(detector.keywords, detector.thresholds, highest, strict=True):
            if score < threshold:
                raise VerifyError(f"{name}: nothing reaches {keyword!r}'s threshold of {threshold:g}; train it longer")


def write_binaries(detector: Detector, folder: Path, audio: Array) -> None:
    """audio: for int8, see `binary.to_bytes`."""
    try:
        for name, kind in BINARIES.items():
            (folder / name).write_bytes(binary.to_bytes(detector, kind, audio))
    except binary.BinaryError as error:
        raise VerifyError(str(error)) from None


def write_int8(detector: Detector, folder: Path, audio: Array, chosen: str, also: Sequence[str]) -> None:
    """The chosen candidate as INT8, and those of `also` under their own names. Raises VerifyError when a CPU without
    VNNI would compute other sums."""
    source, names = folder / FLOAT, {chosen, *also}
    recorded = detector.recorded
    if recorded:
        ranges = recorded.ranges
    else:  # without recordings no static candidate is chosen; only `also` can ask for one
        ranges = calibrate(source, detector, audio) if any(CANDIDATES[n].method == "static" for n in also) else {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in make_candidates(sorted(names), source, detector, ranges, Path(scratch)).items():
            if nodes := saturating_nodes(path):
                raise VerifyError(f"{name}: {', '.join(nodes)}: signed weights give other scores on CPUs without VNNI")
            if name == chosen:
                shutil.copyfile(path, folder / INT8)
            if name in also:
                shutil.copyfile(path, folder / path.name)


def measure(
    detector: Detector, folder: Path, audio: Array, parity: dict[str, Parity], step_us: dict[str, float], chosen: str
) -> dict[str, Any]:
    """The manifest's `measured`."""
    return {
        "parameters": n_parameters(detector.model),
        "audio_seconds": round(len(audio) / detector.sample_rate, 1),
        "default_model": DEFAULT,
        "parity": {name: parity_figures(name, one) for name, one in parity.items()},
        "step_us": step_us,
        "nodes": {name: executed_operations(folder / name).total() for name in (FLOAT, INT8)},
        "int8": int8_figures(detector, chosen),
    }


def parity_figures(name: str, parity: Parity) -> dict[str, float]:
    allowed = TOLERANCES[name]
    return {
        "highest_score": round(float(parity.scores.max()), 4),
        "largest": float(f"{parity.largest:.2g}"),
        "mean": float(f"{parity.mean:.2g}"),
        "allowed_largest": allowed.largest,
        "allowed_mean": allowed.mean,
    }


def int8_figures(detector: Detector, chosen: str) -> dict[str, Any]:
    """The choice, for the manifest and the report."""
    recorded = detector.recorded
    if recorded is None or not recorded.chosen:
        return {"chosen": chosen}
    return {
        "chosen": chosen,
        "calibrated_on": recorded.calibrated_on,
        "measured_on": recorded.measured_on,
        "candidates": {name: trial._asdict() for name, trial in recorded.trials.items()},
    }


def float_nodes(detector: Detector, folder: Path, chosen: str) -> dict[str, str]:
    """Nodes of the network that are float in INT8, and why."""
    trials = detector.recorded.trials if detector.recorded else {}
    nodes = [node for node, integer in precision(folder / FLOAT, folder / INT8).items() if not integer]
    return {node: why_float(trials, chosen, node) for node in nodes if not node.startswith(FRONT_END)}
