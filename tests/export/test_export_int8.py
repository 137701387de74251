"""model.int8.onnx is int8, was chosen by measurement, and its report says what the graph says."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from random_models import random_detector, random_model, save_checkpoint

from export import measure
from export.audio import synthesise
from export.choose import Trial, choose, why_float
from export.detector import Detector
from export.front_end import FrontEnd
from export.quantize import CANDIDATES, activations, calibrate, make_candidates, quantize, write_sources
from export.report import executed_operations
from export.step import Cell
from export.verify import VerifyError, onnx_form, stream
from training.checkpoint import CheckpointError
from training.crnn import Size, log_odds
from training.features import TAIL
from training.quantized import QuantizedCRNN

TINY = Size(channels=4, kernel=(8, 10), stride=(6, 8), hidden=18, layers=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small detector, its float sources, calibrated ranges and candidates."""
    folder, detector = tmp_path_factory.mktemp("tiny"), random_detector(TINY)
    sources = write_sources(detector, folder)
    ranges = calibrate(sources[Cell], detector, synthesise())
    return detector, sources, ranges, make_candidates(detector, sources, ranges, folder)


def test_what_runs_is_int8(base):
    """After onnxruntime's own optimizations, which may turn what looks quantized into float again."""
    operations = executed_operations(base[1] / "model.int8.onnx")
    assert operations["MatMul"] == 4 and operations["Gemm"] == 1  # the front end's, and the ring's sum
    assert not {"Conv", "GRU", "FusedGemm", "FusedMatMul", "FusedConv"} & set(operations)


def test_what_is_kept_besides_is_int8(base):
    for name in ("model.dynamic.onnx", "model.static-signed.onnx"):
        assert (base[1] / name).stat().st_size < (base[1] / "model.onnx").stat().st_size / 2


def test_trained_ranges_are_not_made_up(tmp_path, run):
    folder = save_checkpoint(tmp_path / "x", random_model(Size(kernel=(15, 5), hidden=21)), ["word"])
    code, _, said = run(folder, "--out", tmp_path / "dist", "--also", "static, signed, trained")
    assert code == 1 and "ranges were not trained" in said and not list((tmp_path / "dist").iterdir())


def test_the_report_is_held_to_the_graph(base):
    """Every float product of the network proper has figures of an int8 form of it that is worse."""
    report = (base[1] / "report.md").read_text()
    int8 = json.loads((base[1] / "manifest.json").read_text())["measured"]["int8"]
    graph = onnx.load(base[1] / "model.int8.onnx").graph
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    floats = [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm", "Conv", "GRU") and not dequantized.issuperset(node.input)
        and not node.name.startswith("front_end/")
    ]
    assert floats == int8["candidates"][int8["chosen"]]["left_float"]
    for name in floats:
        row = next(line for line in report.splitlines() if line.startswith(f"| {name} | float | "))
        assert re.search(r"worse in int8: .*(no numbers|scores differ by \d)", row)
        others = [one for one in int8["candidates"].values() if name not in one["left_float"]]
        taken = int8["candidates"][int8["chosen"]]
        assert others and all(
            one.get("mean", math.inf) > taken["mean"] or one["step_us"] > taken["step_us"] for one in others
        )
    assert "| members.0.conv/Conv | int8 |" in report and "| members.0.cells.1.of_hidden/Gemm | int8 |" in report


def test_sizes(base, tiny):
    assert (base[1] / "model.int8.onnx").stat().st_size <= 100 * 1024
    detector, _, _, files = tiny
    assert sum(p.numel() for p in detector.model.parameters()) <= 4000
    for name in ("dynamic", "static", "static, signed"):
        assert files[name].stat().st_size <= 24 * 1024


def test_the_mobile_format_lies_beside_its_operators(base):
    listed = (base[1] / "model.int8.required_operators.config").read_text()
    lines = [line for line in listed.splitlines() if not line.startswith("#")]
    operators = {name for line in lines for name in line.split(";")[-1].split(",")}
    assert {"Sigmoid", "Tanh", "Concat"} <= operators and not {"Range", "Cos"} & operators  # the basis is folded
    assert str(base[1]) not in listed and ".partial" not in listed
    session = ort.InferenceSession(base[1] / "model.int8.ort")
    assert session.get_modelmeta().custom_metadata_map["earshot_version"] == "1"
    files = json.loads((base[1] / "manifest.json").read_text())["files"]
    assert {"model.int8.ort", "model.int8.required_operators.config"} <= set(files)


def test_calibration_sees_states_and_activations(tiny):
    detector, sources, ranges, _ = tiny
    names = activations(onnx.load(sources[Cell]).graph)
    assert set(names.values()) == set(ranges) == {"frames", "columns", "hidden_0", "attended", "ring"}
    assert ranges["frames"][0] == 0 and 10 < ranges["frames"][1] < 32
    assert -1 <= ranges["hidden_0"][0] < -0.1 and 0.1 < ranges["hidden_0"][1] <= 1
    quieter = calibrate(sources[Cell], detector, synthesise() * 0.01)
    assert quieter["frames"][1] < ranges["frames"][1] - 5  # ln 0.01² = −9.2


MIXED = Size(channels=4, kernel=(8, 6), stride=(6, 4), mix=(5, 2), hidden=18, layers=1, smoothing=3)


@pytest.mark.parametrize(
    "size", [TINY, Size(channels=2, kernel=(5, 20), hidden=10, layers=2), MIXED], ids=("one", "two", "mixed")
)
def test_a_quantization_aware_model_is_near_its_export(size, tmp_path):
    """From the same frames on: audio comes through an FFT in training and a matrix product in the step."""
    model = random_model(size)
    aware = QuantizedCRNN(size, dropout=0.0)
    aware.load_state_dict(model.state_dict(), strict=False)
    audio = synthesise()[: 16_000 * 10 // 1280 * 1280]
    heard = np.concatenate([np.zeros(TAIL, np.float32), audio])
    front_end = FrontEnd(size)
    hops = [torch.from_numpy(heard[None, at : at + TAIL + 1280]) for at in range(0, len(audio), 1280)]
    frames = torch.cat([front_end(hop) for hop in hops])[None]
    frames = torch.nn.functional.pad(frames.reshape(1, len(hops), -1, 40), (0, 0, 8 - frames.shape[1] // len(hops), 0))
    frames = frames.reshape(1, -1, 40)
    with torch.no_grad():
        aware.train()
        aware.classify(frames, aware.zero_state())  # the ranges are seen
        aware.eval()
        wanted = torch.sigmoid(log_odds(aware.classify(frames, aware.zero_state())[0].logits))[0].numpy()
        plain = torch.sigmoid(log_odds(model.classify(frames, model.zero_state())[0].logits))[0].numpy()
    ranges = {name: tuple(limits.tolist()) for name, limits in aware.ranges.named_buffers()}
    detector = Detector("aware", model, ["word0"], [0.5], 12, trained_ranges=ranges)
    sources = write_sources(detector, tmp_path, (Cell,))
    quantize(sources[Cell], detector, tmp_path / "q.onnx", CANDIDATES["static, signed, trained"], ranges)
    scores = stream("model.int8.onnx", onnx_form(tmp_path / "q.onnx", detector), detector, audio)
    assert np.abs(scores - wanted).mean() < 5e-4 and np.abs(wanted - plain).mean() > 0


def trial(**figures) -> Trial:
    usual = {"bytes": 1, "largest": 0.01, "mean": 1e-3, "step_us": 100.0, "left_float": ["MatMul"]}
    return Trial(**(usual | {"misses": None, "heard": None} | figures))


def test_choosing():
    found = {"float": trial(mean=0.0), "dynamic": trial(), "static": trial(mean=5e-4)}
    assert choose(found) == "static"  # nearer
    assert choose(found | {"static": trial(mean=5e-4, step_us=130.0)}) == "dynamic"  # much faster
    assert choose(found | {"static": trial(mean=5e-4, misses=0.01)}) == "dynamic"  # misses less
    nearer = {"dynamic, convolution float": trial(mean=0.0, left_float=["members.0.conv/Conv", "MatMul"])}
    assert choose(found | nearer) == "static"  # leaves less float
    assert choose({"dynamic": trial(largest=0.2), "static, convolution float": trial()}) == "static, convolution float"
    assert choose({"dynamic": trial(misses=0.03), "static": trial(misses=0.02)}) == "static"
    with pytest.raises(VerifyError, match="no int8 form"):
        choose({"float": trial(), "dynamic": trial(largest=math.inf, mean=math.inf)})


def test_why_a_node_stays_float_is_told_in_figures():
    found = {"static": trial(), "static, ring too": trial(largest=math.inf, mean=math.inf, left_float=[])}
    assert "“static, ring too”: scores are no numbers" in why_float(found, "static", "MatMul")


def test_what_was_measured_of_other_weights_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path / "x", random_model(Size(kernel=(15, 5), hidden=21)), ["word"])
    assert measure.recorded(folder) == {}
    content = {"sha256": measure.digest(folder / "model.safetensors"), "ranges": {"frames": [0, 30]}, "candidates": {}}
    (folder / measure.FILE).write_text(json.dumps(content))
    assert measure.recorded(folder / "model.safetensors")["ranges"] == {"frames": (0.0, 30.0)}
    (folder / measure.FILE).write_text(json.dumps(content | {"sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="other weights; run python -m export.measure"):
        measure.recorded(folder)
    for broken in ("", "[]", json.dumps(content | {"ranges": {"frames": 1}}), json.dumps(content | {"candidates": []})):
        (folder / measure.FILE).write_text(broken)
        with pytest.raises(CheckpointError, match="cannot be read") as error:
            measure.recorded(folder)
        assert "\n" not in str(error.value)


def test_measuring_replaces_what_was_measured_of_other_weights(tmp_path, monkeypatch):
    folder = save_checkpoint(tmp_path / "x", random_model(Size(kernel=(15, 5), hidden=21)), ["word"])
    found = {"calibrated_on": "a test", "ranges": {"frames": [0.0, 30.0]}, "candidates": {}}
    (folder / measure.FILE).write_text(json.dumps(found | {"sha256": "0" * 64}))
    monkeypatch.setattr(measure, "measure_ranges", lambda *_: found)
    assert measure.main([str(folder), "--ranges", "--data", str(tmp_path)]) == 0
    assert measure.recorded(folder)["ranges"] == {"frames": (0.0, 30.0)}


def test_measuring_without_recordings_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("EARSHOT_DATA", raising=False)
    assert measure.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_trained_ranges_make_a_candidate(tiny, tmp_path):
    detector, sources, ranges, files = tiny
    assert "static, signed, trained" not in files
    trained = make_candidates(replace(detector, trained_ranges=ranges), sources, ranges, tmp_path)
    assert "static, signed, trained" in trained
