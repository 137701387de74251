"""manifest.json: what the runtime reads before it opens a model, and the figures measured at the export."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export.detector import Detector
from export.folder.complete import write_last
from export.step.step import state_shapes

FILES = ("model.onnx", "model.int8.onnx", "model.torchscript", "model.bin", "model.int8.bin", "keywords.wav")


def manifest(
    detector: Detector, folder: Path, default_model: str, measured: dict[str, Any], also: Sequence[str] = ()
) -> dict[str, Any]:
    """folder: where the model files lie; also: those besides FILES. measured: anything JSON can hold."""
    return {
        "earshot_version": "1",
        "name": detector.name,
        "sample_rate": detector.sample_rate,
        "hop_samples": detector.hop_samples,
        "keywords": detector.keywords,
        "threshold": detector.thresholds,
        "refractory_hops": detector.refractory_hops,
        **({"operating_points": detector.operating_points} if detector.operating_points else {}),
        "default_model": default_model,
        "files": {name: fingerprint(folder / name) for name in (*FILES, *also)},
        "states": [{"name": name, "shape": shape} for name, shape in state_shapes(detector.model.size).items()],
        "measured": measured,
    }


def fingerprint(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def write_manifest(content: dict[str, Any], folder: Path) -> None:
    write_last(folder, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
