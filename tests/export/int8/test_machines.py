"""A bundle and its int8 scores are the same on every CPU: shown on an emulated one with AVX2 and without VNNI."""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnxruntime.quantization import QuantType
from random_models import random_detector

from export.audio import synthesise
from export.forms.onnx import export_onnx
from export.int8 import quantize
from export.int8.quantize import CANDIDATES, calibrate, make_candidates
from export.step.step import Step
from export.verify import onnx_form, stream
from training.model.crnn import Size

ROOT = Path(__file__).resolve().parents[3]
EMULATOR = ["qemu-x86_64-static", "-cpu", "Haswell"]  # AVX2, FMA; neither AVX-512 nor VNNI
pytestmark = pytest.mark.skipif(
    shutil.which(EMULATOR[0]) is None or platform.machine() != "x86_64",
    reason="needs qemu-user-static on x86-64: apt-get install qemu-user-static",
)

# Scores of every hop of an audio file by an ONNX file, from zero state.
SCORES = """
import sys
import numpy as np
import onnxruntime
model, audio, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
inputs = session.get_inputs()
states = [np.zeros(value.shape, np.float32) for value in inputs[1:]]
scores = []
for hop in np.load(audio).reshape(-1, 1, inputs[0].shape[1]):
    score, *states = session.run(None, dict(zip([value.name for value in inputs], [hop, *states])))
    scores.append(score[0])
np.save(out, scores)
"""


def emulated(*arguments: str | Path) -> str:
    """`python arguments` on the emulated CPU → what it prints."""
    command = [*EMULATOR, sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def detector():
    """Most of whose recurrent weights are as large as can be, so that sums of signed products would saturate."""
    detector = random_detector(Size(channels=4, kernel=(8, 6), stride=(6, 4), mix=(5, 2), hidden=64, layers=2))
    for name, parameter in detector.model.gru.named_parameters():
        if "weight" in name:
            parameter.data = parameter.sign() * parameter.std()
    return detector


@pytest.fixture
def drift(detector, tmp_path):
    """drift(candidate): the largest difference of its scores between the emulated CPU and this one."""
    source, audio = tmp_path / "float.onnx", synthesise()[: 1280 * 100]
    export_onnx(Step(detector.model), detector, source)
    ranges = calibrate(source, detector, audio)
    np.save(tmp_path / "audio.npy", audio)

    def measure(name: str) -> float:
        trained = replace(detector, trained_ranges=ranges)
        (path,) = make_candidates([name], source, trained, ranges, tmp_path).values()
        here = stream(name, onnx_form(path, detector), detector, audio)
        emulated("-c", SCORES, path, tmp_path / "audio.npy", tmp_path / "there.npy")
        return float(np.abs(np.load(tmp_path / "there.npy") - here).max())

    return measure


@pytest.mark.parametrize("name", CANDIDATES)
def test_int8_scores_are_those_of_a_cpu_without_vnni(drift, name):
    assert drift(name) < 1e-4


def test_signed_weights_would_score_otherwise(drift, monkeypatch):
    """Or the test above could not fail."""

    class Signed:
        QUInt8 = QuantType.QInt8

    monkeypatch.setattr(quantize, "QuantType", Signed)
    assert drift("dynamic") > 1e-2


@pytest.mark.slow
def test_the_int8_tests_pass_without_vnni():
    """Those that compute with int8. The others read files, and an export under the emulator is the test below."""
    arithmetic = "quantization_aware or saturate or calibration or ranges"
    said = emulated("-m", "pytest", "-p", "no:cacheprovider", "tests/export/int8/test_int8.py", "-k", arithmetic)
    assert " passed" in said and "skipped" not in said


@pytest.mark.slow
def test_a_checkpoint_gives_the_same_files_without_vnni(tmp_path):
    arguments = ("-m", "export", "models/happy-tiny", "--also", "static", "--out")
    subprocess.run([sys.executable, *arguments, tmp_path / "here"], cwd=ROOT, check=True)
    emulated(*arguments, tmp_path / "there")
    here, there = (tmp_path / place / "happy-tiny" for place in ("here", "there"))
    models = [path.name for path in here.iterdir() if path.name.startswith("model.")]
    assert len(models) == 4
    for name in models:
        assert (here / name).read_bytes() == (there / name).read_bytes(), name
