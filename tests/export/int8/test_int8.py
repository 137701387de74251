"""model.int8.onnx is int8, exact on every CPU, chosen by measurement or by rule, and its report says what is in it."""

import json
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import QuantType
from random_models import random_detector, random_model, save_checkpoint

from export.audio import synthesise
from export.detector import Detector
from export.forms.onnx import export_onnx
from export.int8 import measure, quantize, recorded
from export.int8.choose import TRAINED, UNMEASURED, choose, chosen_form, why_float
from export.int8.quantize import CANDIDATES, activations, calibrate, make_candidates, saturating_nodes
from export.int8.recorded import Recorded, Trial
from export.report import executed_operations
from export.step.front_end import FrontEnd
from export.step.step import Step
from export.verify import VerifyError, onnx_form, stream
from training.model.checkpoint import CheckpointError
from training.model.crnn import Size, log_odds
from training.model.features import TAIL
from training.model.quantized import QuantizedCRNN

TINY = Size(channels=4, kernel=(8, 10), stride=(6, 8), hidden=18, layers=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small detector, its float file, its ranges, as if they were trained too, and every candidate."""
    folder, detector = tmp_path_factory.mktemp("tiny"), random_detector(TINY)
    source = folder / "model.onnx"
    export_onnx(Step(detector.model), detector, source)
    ranges = calibrate(source, detector, synthesise())
    detector = replace(detector, trained_ranges=ranges)
    return detector, source, ranges, make_candidates(CANDIDATES, source, detector, ranges, folder)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, corpus):
    """A checkpoint that was measured on recordings, and the folder of its bundle."""
    from export.__main__ import main

    folder = tmp_path_factory.mktemp("measured")
    checkpoint = save_checkpoint(folder / "happy-x", random_model(Size(kernel=(15, 5), hidden=21)), ["happy"])
    assert measure.main([str(checkpoint), "--data", str(corpus)]) == 0
    assert main([str(checkpoint), "--out", str(folder / "dist")]) == 0
    return checkpoint, folder / "dist" / "happy-x"


def test_what_runs_is_int8(base):
    """After onnxruntime's own optimizations, which may turn what looks quantized into float again."""
    operations = executed_operations(base[1] / "model.int8.onnx")
    assert operations["MatMul"] == 4 and operations["Gemm"] == 1  # the front end's, and the ring's sum
    assert operations["Conv"] == 1
    assert not {"GRU", "FusedGemm", "FusedMatMul", "FusedConv"} & set(operations)


def test_what_is_kept_besides_is_int8(base):
    for name in ("model.dynamic.onnx", "model.static.onnx"):
        assert (base[1] / name).stat().st_size < (base[1] / "model.onnx").stat().st_size / 2
        assert "Conv" not in executed_operations(base[1] / name)


def test_trained_ranges_are_not_made_up(tmp_path, run):
    folder = save_checkpoint(tmp_path / "x", random_model(Size(kernel=(15, 5), hidden=21)), ["word"])
    code, _, said = run(folder, "--out", tmp_path / "dist", "--also", TRAINED)
    assert code == 1 and "ranges were not trained" in said and not list((tmp_path / "dist").iterdir())


# Exact on every CPU


@pytest.mark.parametrize("name", CANDIDATES)
def test_no_candidate_can_saturate(tiny, name):
    assert saturating_nodes(tiny[3][name]) == []


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_signed_weights_are_found_and_never_exported(method, tiny, tmp_path, run, monkeypatch):
    monkeypatch.setattr(quantize, "QuantType", Signed)
    detector, source, ranges, _ = tiny
    (path,) = make_candidates([method], source, detector, ranges, tmp_path).values()
    nodes = saturating_nodes(path)
    assert len(nodes) >= 5 and any("of_hidden" in node for node in nodes)
    folder = save_checkpoint(tmp_path / "x", random_model(Size(kernel=(15, 5), hidden=21)), ["word"])
    code, _, said = run(folder, "--out", tmp_path / "dist", "--also", method)
    assert code == 1 and "on CPUs without VNNI" in said and not list((tmp_path / "dist").iterdir())


class Signed:
    QUInt8 = QuantType.QInt8


# The choice


def test_the_choice_is_kept_beside_the_weights(measured):
    checkpoint, bundle = measured
    found = recorded.read(checkpoint / "model.safetensors")
    assert set(found.trials) == set(CANDIDATES) - {TRAINED}
    int8 = json.loads((bundle / "manifest.json").read_text())["measured"]["int8"]
    assert int8["chosen"] == found.chosen == choose(found.trials)
    assert int8["candidates"] == {name: trial._asdict() for name, trial in found.trials.items()}


def test_the_report_is_held_to_the_graph(measured):
    """The nodes that it calls float are those that are, and it has figures of an int8 form of each."""
    checkpoint, bundle = measured
    report, found = (bundle / "report.md").read_text(), recorded.read(checkpoint / "model.safetensors")
    graph = onnx.load(bundle / "model.int8.onnx").graph
    floats = {
        node.name for node in graph.node
        if node.op_type in ("MatMul", "Gemm", "Conv") and not node.name.startswith("front_end/")
    }
    taken = found.trials[found.chosen]
    assert floats == set(taken.left_float) == {"members.0.conv/Conv", "MatMul"}
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in report.splitlines() if line.count("|") == 4}
    assert f"{taken.bytes / 1024:.1f} KiB" in rows["members.0.conv/Conv"] and "dynamic: " in rows["members.0.conv/Conv"]
    assert "exponentials" in rows["MatMul"]
    assert "| int8 |" in rows["members.0.cells.1.of_hidden/Gemm"]
    for name in found.trials:
        assert f"| {'**' if name == found.chosen else ''}{name}" in report


def test_a_checkpoint_without_measurements_follows_the_rule(tiny):
    detector = tiny[0]
    assert chosen_form(detector) == TRAINED and chosen_form(replace(detector, trained_ranges={})) == UNMEASURED
    measured = Recorded("a test", {}, "a test", "static", {"static": trial()})
    assert chosen_form(replace(detector, recorded=measured)) == "static"
    unknown = Recorded("a test", {}, "a test", "ternary", {"ternary": trial()})
    with pytest.raises(VerifyError, match="unknown form, ternary: measure it again"):
        chosen_form(replace(detector, recorded=unknown))
    assert chosen_form(replace(detector, recorded=Recorded("a test", {}), trained_ranges={})) == UNMEASURED


def test_sizes(base, tiny):
    assert (base[1] / "model.int8.onnx").stat().st_size <= 100 * 1024
    detector, _, _, files = tiny
    assert sum(p.numel() for p in detector.model.parameters()) <= 4000
    for path in files.values():
        assert path.stat().st_size <= 24 * 1024


def test_calibration_sees_states_and_activations(tiny):
    detector, source, ranges, _ = tiny
    names = activations(onnx.load(source).graph)
    assert set(names.values()) == set(ranges) == {"frames", "columns", "hidden_0", "attended"}
    assert ranges["frames"][0] == 0 and 10 < ranges["frames"][1] < 32
    assert -1 <= ranges["hidden_0"][0] < -0.1 and 0.1 < ranges["hidden_0"][1] <= 1
    quieter = calibrate(source, detector, synthesise() * 0.01)
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
    export_onnx(Step(model), detector, tmp_path / "model.onnx")
    (path,) = make_candidates([TRAINED], tmp_path / "model.onnx", detector, {}, tmp_path).values()
    scores = stream("model.int8.onnx", onnx_form(path, detector), detector, audio)
    assert np.abs(scores - wanted).mean() < 5e-4 and np.abs(wanted - plain).mean() > 0


def trial(**figures) -> Trial:
    usual = {"bytes": 1000, "largest": 0.01, "mean": 1e-3, "left_float": ["MatMul"], "more_misses": 0.0}
    return Trial(**(usual | {"mean_difference": 1e-3, "p99_difference": 0.01} | figures))


def test_choosing():
    found = {"dynamic": trial(), "static": trial(mean_difference=5e-4)}
    assert choose(found) == "static"  # nearer
    assert choose(found | {"static": trial(mean_difference=5e-4, bytes=1101)}) == "dynamic"  # smaller
    assert choose(found | {"static": trial(mean_difference=5e-4, more_misses=0.01)}) == "dynamic"  # misses less
    assert choose(found | {"static": trial(mean_difference=5e-4, largest=0.2)}) == "dynamic"  # agrees
    assert choose({"dynamic": trial(more_misses=0.03), "static": trial(more_misses=0.02, bytes=9999)}) == "static"
    assert choose({"dynamic": trial(more_misses=-0.01), "static": trial(mean_difference=5e-4)}) == "static"
    with pytest.raises(VerifyError, match="no int8 form"):
        choose({"dynamic": trial(largest=math.inf, mean=math.inf)})


def test_why_a_node_stays_float_is_told_in_figures():
    found = {"static": trial(more_misses=0.01, left_float=[]), "dynamic": trial(bytes=2048, left_float=["conv"])}
    assert why_float(found, "dynamic", "conv").startswith("chosen: 2.0 KiB")
    assert "static: 1.0 KiB, +1.00 points" in why_float(found, "dynamic", "conv")
    assert "without int8.json" in why_float({}, UNMEASURED, "conv")


# int8.json


def test_what_was_measured_of_other_weights_is_refused(tmp_path):
    folder = save_checkpoint(tmp_path / "x", random_model(Size(kernel=(15, 5), hidden=21)), ["word"])
    weights = folder / "model.safetensors"
    assert recorded.read(weights) is None
    recorded.write(weights, Recorded("a test", {"frames": (0.0, 30.0)}, "a test", "static", {"static": trial()}))
    assert recorded.read(weights).ranges == {"frames": (0.0, 30.0)} and recorded.read(weights).chosen == "static"
    content = json.loads((folder / recorded.FILE).read_text())
    (folder / recorded.FILE).write_text(json.dumps(content | {"sha256": "0" * 64}))
    with pytest.raises(CheckpointError, match="other weights; run python -m export.int8.measure"):
        recorded.read(weights)
    for change in ({"ranges": {"frames": 1}}, {"trials": []}, {"chosen": "none"}, {"more": 1}, {"trials": {"x": {}}}):
        (folder / recorded.FILE).write_text(json.dumps(content | change))
        with pytest.raises(CheckpointError, match="cannot be read") as error:
            recorded.read(weights)
        assert "\n" not in str(error.value)
    for broken in ("", "[]"):
        (folder / recorded.FILE).write_text(broken)
        with pytest.raises(CheckpointError, match="cannot be read"):
            recorded.read(weights)


def test_ranges_alone_replace_what_was_measured_of_other_weights(tmp_path, corpus):
    folder = save_checkpoint(tmp_path / "x", random_model(Size(kernel=(15, 5), hidden=21)), ["happy"])
    (folder / recorded.FILE).write_text(json.dumps({"sha256": "0" * 64}))
    assert measure.main([str(folder), "--ranges", "--data", str(corpus)]) == 0
    found = recorded.read(folder / "model.safetensors")
    assert found.ranges["frames"][1] > 10 and not found.chosen and not found.trials


def test_measuring_without_recordings_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("EARSHOT_DATA", raising=False)
    assert measure.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
