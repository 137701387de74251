"""A trained model → a verified bundle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from export.audio import verification_audio
from export.detector import Detector
from export.folder import new_folder
from export.manifest import manifest, write_manifest
from export.onnx import export_onnx
from export.quantize import quantize
from export.report import executed_operations, write_report
from export.step import Step, offline_scores
from export.timing import step_times
from export.torchscript import export_torchscript
from export.verify import TOLERANCES, Parity, onnx_form, torchscript_form, verify
from training.crnn import n_parameters

ONNX_FORMS = ("model.onnx", "model.int8.onnx")


def export(detector: Detector, out: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Write the bundle `out`/<name> and return its manifest. `say` is told of each stage.

    Raises VerifyError when a form does not say what the trained model says, and OSError when writing fails; either
    way nothing is left behind, and an older bundle of that name stays.
    """
    with new_folder(out / detector.name) as folder:
        say(f"{detector.name}: writing TorchScript, ONNX and int8 ONNX")
        step = Step(detector.model)
        export_torchscript(step, folder / "model.torchscript")
        export_onnx(step, detector, folder / "model.onnx")
        quantize(folder / "model.onnx", detector, folder / "model.int8.onnx")

        say(f"{detector.name}: verifying every form against the trained model")
        audio = verification_audio(detector.model)
        forms = {name: onnx_form(folder / name, detector) for name in ONNX_FORMS}
        forms["model.torchscript"] = torchscript_form(folder / "model.torchscript")
        parity = verify(detector, audio, forms)

        say(f"{detector.name}: measuring the step")
        times = step_times(detector, forms, audio)
        default_model = min(ONNX_FORMS, key=times.__getitem__)
        measured = {
            "parameters": n_parameters(detector.model),
            "audio_seconds": round(len(audio) / detector.sample_rate, 1),
            "default_model": default_model,
            "parity": {name: parity_figures(name, one) for name, one in parity.items()},
            "step_us": times,
            "nodes": {name: executed_operations(folder / name).total() for name in ONNX_FORMS},
        }

        say(f"{detector.name}: drawing the report")
        reference = offline_scores(detector.model, torch.from_numpy(audio)).numpy()
        write_report(folder, detector, measured, reference, parity)
        content = manifest(detector, folder, default_model, measured)
        write_manifest(content, folder)  # last: what has a manifest is a bundle
    return content


def parity_figures(name: str, parity: Parity) -> dict[str, float]:
    allowed = TOLERANCES[name]
    return {
        "highest_score": round(float(parity.scores.max()), 4),
        "largest": float(f"{parity.largest:.2g}"),
        "mean": float(f"{parity.mean:.2g}"),
        "allowed_largest": allowed.largest,
        "allowed_mean": allowed.mean,
    }
