"""What a stranger relies on who reads DESIGN.md's page about the contract and nothing else."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch
from random_models import random_detector
from toy import CURVE

from export.audio import synthesise
from export.folder.threshold import set_thresholds
from export.forms.onnx import metadata
from export.step.step import offline_scores
from training.model.crnn import Size


def strangers_scores(path, audio):
    """Ten lines of plain onnxruntime; nothing of ours."""
    session = ort.InferenceSession(path)
    meta = session.get_modelmeta().custom_metadata_map
    hop = int(meta["hop_samples"])
    first, *rest = session.get_inputs()
    feed = {state.name: np.zeros(state.shape, np.float32) for state in rest}
    scores = []
    for start in range(0, len(audio) - hop + 1, hop):
        score, *states = session.run(None, {first.name: audio[None, start : start + hop], **feed})
        feed = {state.name: value for state, value in zip(rest, states, strict=True)}
        scores.append(score[0])
    return np.array(scores), session, meta


@pytest.fixture(scope="module")
def audio():
    return synthesise()


@pytest.fixture(scope="module")
def offline(base, audio):
    return offline_scores(base[0], torch.from_numpy(audio)).numpy()


@pytest.mark.parametrize(("file", "tolerance"), [("model.onnx", 1e-4), ("model.int8.onnx", 0.05)])
def test_onnx_obeys_the_contract(base, audio, offline, file, tolerance):
    scores, session, meta = strangers_scores(base[1] / file, audio)
    assert len(scores) == 300
    assert np.ptp(offline) > 0.1  # the comparison is worth something
    np.testing.assert_allclose(scores, offline, rtol=0, atol=tolerance)

    assert meta == {
        "earshot_version": "1",
        "sample_rate": "16000",
        "hop_samples": "1280",
        "keywords": '["happy"]',
        "threshold": "[0.6]",
        "refractory_hops": "12",
        "operating_points": json.dumps([CURVE]),
    }
    inputs, outputs = session.get_inputs(), session.get_outputs()
    assert (inputs[0].name, inputs[0].shape) == ("audio", [1, 1280])
    assert (outputs[0].name, outputs[0].shape) == ("score", [1, 1])
    for state, after in zip(inputs[1:], outputs[1:], strict=True):
        assert (after.name, after.shape) == (f"{state.name}_next", state.shape)
    assert {value.type for value in (*inputs, *outputs)} == {"tensor(float)"}


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
def test_torchscript_obeys_the_contract(base, audio, offline):
    module = torch.jit.load(base[1] / "model.torchscript")
    shapes = [state["shape"] for state in json.loads((base[1] / "manifest.json").read_text())["states"]]
    states = [torch.zeros(shape) for shape in shapes]
    scores = []
    for hop in torch.from_numpy(audio).split(1280):
        score, *states = module(hop.unsqueeze(0), *states)
        scores.append(score[0].numpy())
    np.testing.assert_allclose(np.array(scores), offline, rtol=0, atol=1e-4)
    assert [list(state.shape) for state in states] == shapes


def test_manifest_describes_the_files(base):
    manifest = json.loads((base[1] / "manifest.json").read_text())
    measured = manifest.pop("measured")
    files = manifest.pop("files")
    assert manifest == {
        "earshot_version": "1",
        "name": "happy-base",
        "sample_rate": 16000,
        "hop_samples": 1280,
        "keywords": ["happy"],
        "threshold": [0.6],
        "refractory_hops": 12,
        "operating_points": [CURVE],
        "default_model": "model.onnx",
        "states": [
            {"name": "tail", "shape": [1, 240]},
            {"name": "context", "shape": [12, 40]},
            {"name": "hidden_0", "shape": [1, 64]},
            {"name": "hidden_1", "shape": [1, 64]},
            {"name": "ring", "shape": [15, 2]},
        ],
    }
    also = {"model.dynamic.onnx", "model.static.onnx"}
    binaries = {"model.bin", "model.int8.bin"}
    assert set(files) == {"model.onnx", "model.int8.onnx", "model.torchscript", "keywords.wav"} | binaries | also
    for name, file in files.items():
        content = (base[1] / name).read_bytes()
        assert file == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert measured["parameters"] == 70_443
    assert measured["parity"]["model.onnx"]["largest"] <= 1e-4


def test_another_threshold_leaves_the_curve(base, tmp_path):
    shutil.copytree(base[1], tmp_path / "copy")
    set_thresholds(tmp_path / "copy", [0.25])
    manifest = json.loads((tmp_path / "copy" / "manifest.json").read_text())
    assert manifest["threshold"] == [0.25] and manifest["operating_points"] == [CURVE]
    _, _, meta = strangers_scores(tmp_path / "copy" / "model.int8.onnx", np.zeros(1280, np.float32))
    assert meta["threshold"] == "[0.25]" and meta["operating_points"] == json.dumps([CURVE])


def test_a_checkpoint_without_a_curve_is_exported_as_before():
    detector = random_detector(Size())
    assert "operating_points" not in metadata(detector)
    assert json.loads(metadata(replace(detector, operating_points=[CURVE]))["operating_points"]) == [CURVE]


def test_float_is_little_more_than_its_weights(base):
    assert (base[1] / "model.onnx").stat().st_size <= 70_443 * 4 + 10 * 1024


def test_the_report_stands_alone(base):
    text = (base[1] / "report.md").read_text()
    for picture in ("scores.png", "times.png"):
        assert f"({picture})" in text
        assert (base[1] / picture).read_bytes().startswith(b"\x89PNG")
    for word in ("cells.0.of_input/Gemm | int8", "checkpoint without int8.json", "torch eager", "on every CPU"):
        assert word in text
