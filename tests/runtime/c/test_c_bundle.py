"""A bundle's model.bin in the runtime: chosen by name, checked against the manifest, run without onnxruntime."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from c_files import MODELS, audio, scores, weights
from toy import write_bundle

from export.detector import read_checkpoint
from runtime.bundle.engine import BundleError, Engine
from runtime.c.library import CEngine

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def make(tmp_path):
    """A bundle of one model.bin and, as the contract wants them, ONNX files; its manifest may say other things."""

    def make(content: bytes = weights("happy-tiny"), **fields) -> Path:
        detector = read_checkpoint(MODELS / "happy-tiny")
        told = {"keywords": detector.keywords, "threshold": detector.thresholds, "refractory_hops": 12}
        folder = write_bundle(tmp_path / "bundle", **told | fields)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"]["model.bin"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        (folder / "model.bin").write_bytes(content)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return make


def test_scores_are_the_engines(make):
    engine, sound = Engine(make(), "model.bin"), audio()
    wanted = scores(CEngine(weights("happy-tiny")), sound)
    assert (np.array([engine.step(hop) for hop in sound.reshape(-1, 1280)]) == wanted).all()
    other = engine.stream()
    engine.reset()
    assert other.step(sound[:1280]) == engine.step(sound[:1280]) == wanted[0]
    assert engine.step(np.full(1280, np.nan, np.float32)) == 0
    assert (engine.nan_resets, other.nan_resets) == (1, 0)
    with pytest.raises(ValueError, match="a hop is a float32 array"):
        engine.step(np.zeros(1280, np.int16))


def test_is_a_detector_as_the_manifest_says(make):
    engine = Engine(make(), "model.bin")
    detector = read_checkpoint(MODELS / "happy-tiny")
    assert (engine.keywords, engine.thresholds) == (tuple(detector.keywords), tuple(detector.thresholds))
    assert (engine.hop_samples, engine.refractory_hops, engine.model) == (1280, 12, "model.bin")


@pytest.mark.parametrize(
    ("field", "value"), [("keywords", ["sad"]), ("threshold", [0.25]), ("refractory_hops", 13), ("hop_samples", 640)]
)
def test_a_manifest_that_says_otherwise(make, field, value):
    with pytest.raises(BundleError, match=rf"^model.bin: its {field} is not the one in manifest.json: export the bun"):
        Engine(make(**{field: value}), "model.bin")


@pytest.mark.parametrize("content", [b"", weights("happy-tiny")[:-16], bytes(5000)], ids=["empty", "short", "zeros"])
def test_damaged_weights(make, content):
    with pytest.raises(BundleError, match=r"^model.bin: (not a model.bin|a model.bin that is truncated).*: export it"):
        Engine(make(content), "model.bin")


def test_changed_weights(make):
    folder = make()
    (folder / "model.bin").write_bytes(weights("happy-small"))
    with pytest.raises(BundleError, match="model.bin: 20544 bytes where manifest.json says 16400"):
        Engine(folder, "model.bin")


def test_may_be_missing_when_another_is_chosen(make):
    folder = make()
    (folder / "model.bin").unlink()
    assert Engine(folder, "model.onnx").hop_samples == 1280
    with pytest.raises(BundleError, match="model.bin: cannot be read"):
        Engine(folder, "model.bin")


def test_listens_without_onnxruntime(make, tmp_path):
    """listen.py with a Python that has none."""
    sound = np.clip(np.round(audio() * 32767), -32768, 32767).astype("<i2")
    bare = "import runpy, sys; sys.modules['onnxruntime'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    listen = str(ROOT / "runtime" / "listen.py")
    command = [sys.executable, "-c", bare, listen, make(), "--model", "model.bin", "--stdin", "--threshold", "0.001"]
    done = subprocess.run(command, input=sound.tobytes(), capture_output=True, cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()
    assert json.loads(done.stdout.splitlines()[0])["keyword"] == "happy"
