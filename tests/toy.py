"""A tiny bundle that obeys the contract, made without training or export: its score follows the loudness."""

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx

HOP = 1280
# level' = half of (level + energy of tail and audio); score = sigmoid(100 level' - 5)
GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
loudness (float[1,1280] audio, float[1,1] level, float[1,240] tail)
  => (float[1,1] score, float[1,1] level_next, float[1,240] tail_next)
  <float[1] half = {0.5}, float[1] gain = {100.0}, float[1] offset = {5.0},
   int64[1] start = {1040}, int64[1] end = {1280}, int64[1] axis = {1}>
{
  window = Concat<axis = 1>(tail, audio)
  square = Mul(window, window)
  energy = ReduceMean(square, axis)
  sum = Add(level, energy)
  level_next = Mul(sum, half)
  scaled = Mul(level_next, gain)
  logit = Sub(scaled, offset)
  score = Sigmoid(logit)
  tail_next = Slice(audio, start, end, axis)
}
"""
MANIFEST = {
    "earshot_version": "1", "name": "loud-test", "sample_rate": 16000, "hop_samples": HOP, "keywords": ["loud"],
    "threshold": [0.5], "refractory_hops": 12, "default_model": "model.int8.onnx",
    "states": [{"name": "level", "shape": [1, 1]}, {"name": "tail", "shape": [1, 240]}], "measured": {},
}

# Of one keyword, the most false accepts first.
CURVE = [
    {"threshold": threshold, "false_accepts_per_hour": rate, "worst_kind_per_hour": 2 * rate, "misses": misses,
     "misses_10_db": 2 * misses}
    for threshold, rate, misses in ((0.25, 4.0, 0.01), (0.5, 1.0, 0.02), (0.75, 0.5, 0.04), (0.9, 0.5, 0.06),
                                    (0.999, 0.125, 0.2))
]


def write_bundle(
    folder: Path, graph: str = GRAPH, metadata: dict[str, str | None] | None = None, **fields: Any
) -> Path:
    """Write a bundle whose SHA-256 figures are right, however wrong its graph, its metadata or manifest fields are."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {**MANIFEST, **fields}
    model = onnx.parser.parse_model(graph)
    props = {"earshot_version": str(manifest["earshot_version"])}
    optional = ["operating_points"] if "operating_points" in manifest else []
    for key in ("sample_rate", "hop_samples", "keywords", "threshold", "refractory_hops", *optional):
        props[key] = json.dumps(manifest[key])
    for key, value in (metadata or {}).items():
        props.pop(key, None)
        if value is not None:
            props[key] = value
    onnx.helper.set_model_props(model, props)
    content = {"model.onnx": model.SerializeToString(), "model.int8.onnx": model.SerializeToString(),
               "model.torchscript": b"not for the device", "report.md": b"# report\n"}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    manifest.setdefault("files", {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
                                  for name, data in content.items()})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
