"""A trained model → a verified bundle."""

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from export.audio import verification_audio
from export.choose import Trial, choose, try_all, why_float
from export.detector import Detector
from export.folder import new_folder
from export.manifest import manifest, write_manifest
from export.ort import MOBILE, export_ort
from export.quantize import CANDIDATES, calibrate, make_candidates, write_sources
from export.report import executed_operations, write_report
from export.step import Cell, Step, offline_scores
from export.timing import step_times
from export.torchscript import export_torchscript
from export.verify import TOLERANCES, Parity, VerifyError, onnx_form, torchscript_form, verify
from training.crnn import n_parameters

RECORDED = ("calibrated_on", "measured_on")  # what int8.json says of its recordings
ONNX_FORMS = ("model.onnx", "model.int8.onnx")
QUICKER = 0.95  # of float's step time, that int8 must not exceed to be the default: less is the noise of measuring


def export(
    detector: Detector, out: Path, say: Callable[[str], None] = print, also: Sequence[str] = ()
) -> dict[str, Any]:
    """Write the bundle `out`/<name> and return its manifest. `say` is told of each stage.

    also: candidates of export.quantize that are kept too, as `file_of` calls them, whether they agree or not.

    Raises VerifyError when a form does not say what the trained model says, and OSError when writing fails; either
    way nothing is left behind, and an older bundle of that name stays.
    """
    if not detector.trained_ranges and any(CANDIDATES[name].trained for name in also):
        raise VerifyError("its ranges were not trained: --also keeps that form of what train.quantized_epochs leaves")
    with new_folder(out / detector.name) as folder, tempfile.TemporaryDirectory() as scratch:
        say(f"{detector.name}: writing TorchScript, ONNX and all that might become int8 ONNX")
        export_torchscript(Step(detector.model), folder / "model.torchscript")
        audio = verification_audio(detector.model)
        reference = offline_scores(detector.model, torch.from_numpy(audio)).numpy()
        sources = write_sources(detector, Path(scratch))
        calibrated = detector.recorded.get("ranges") or calibrate(sources[Cell], detector, audio)
        files = make_candidates(detector, sources, calibrated, Path(scratch))
        shutil.copyfile(files["float"], folder / "model.onnx")

        say(f"{detector.name}: verifying the float forms against the trained model")
        forms = {"model.onnx": onnx_form(folder / "model.onnx", detector)}
        forms["model.torchscript"] = torchscript_form(folder / "model.torchscript")
        parity = verify(detector, audio, forms)

        say(f"{detector.name}: measuring which int8 form to take")
        tried = try_all(detector, sources, files, audio, reference)
        chosen = choose(tried)
        shutil.copyfile(files[chosen], folder / "model.int8.onnx")
        for name in also:
            shutil.copyfile(files[name], folder / file_of(name))
        export_ort(folder)

        int8 = {name: onnx_form(folder / name, detector) for name in ("model.int8.onnx", MOBILE)}
        forms |= int8
        parity |= verify(detector, audio, int8)

        say(f"{detector.name}: measuring the step")
        times = step_times(detector, forms, audio)
        quicker = times["model.int8.onnx"] <= QUICKER * times["model.onnx"]
        default_model = "model.int8.onnx" if quicker else "model.onnx"
        measured = {
            "parameters": n_parameters(detector.model),
            "audio_seconds": round(len(audio) / detector.sample_rate, 1),
            "default_model": default_model,
            "parity": {name: parity_figures(name, one) for name, one in parity.items()},
            "step_us": times,
            "nodes": {name: executed_operations(folder / name).total() for name in ONNX_FORMS},
            "int8": {
                "chosen": chosen,
                "recordings": {key: detector.recorded[key] for key in RECORDED if key in detector.recorded},
                "candidates": {name: trial_figures(trial) for name, trial in tried.items()},
            },
        }

        say(f"{detector.name}: drawing the report")
        floats = {node: why_float(tried, chosen, node) for node in tried[chosen].left_float}
        write_report(folder, detector, measured, reference, parity, floats)
        content = manifest(detector, folder, default_model, measured, [file_of(name) for name in also])
        write_manifest(content, folder)  # last: what has a manifest is a bundle
    return content


def file_of(candidate: str) -> str:
    """What the file of a candidate is called that is kept besides the one that is chosen."""
    return f"model.{candidate.replace(',', '').replace(' ', '-')}.onnx"


def parity_figures(name: str, parity: Parity) -> dict[str, float]:
    allowed = TOLERANCES[name]
    return {
        "highest_score": round(float(parity.scores.max()), 4),
        "largest": float(f"{parity.largest:.2g}"),
        "mean": float(f"{parity.mean:.2g}"),
        "allowed_largest": allowed.largest,
        "allowed_mean": allowed.mean,
    }


def trial_figures(trial: Trial) -> dict[str, Any]:
    """What JSON can hold, which infinity is not among; what was not measured is left out."""
    figures = {
        "bytes": trial.bytes,
        "largest": trial.largest,
        "mean": trial.mean,
        "step_us": trial.step_us,
        "left_float": trial.left_float,
        "more_misses_on_recordings": trial.misses,
        "mean_on_recordings": trial.heard,
    }
    return {
        key: float(f"{value:.3g}") if isinstance(value, float) else value
        for key, value in figures.items()
        if value is not None and value != math.inf
    }
