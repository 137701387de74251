"""Every form of every size says what the trained model says; and when it does not, there is no bundle."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from random_models import random_detector
from toy import CURVE

import export.bundle
from export.audio import synthesise
from export.bundle import export as export_bundle
from export.forms.onnx import export_onnx
from export.forms.torchscript import export_torchscript
from export.int8.quantize import CANDIDATES, quantize
from export.report import executed_operations
from export.step.step import Step, state_shapes
from export.verify import VerifyError, onnx_form, stream, torchscript_form, verify
from training.model.crnn import Size

SIZES = {
    "short kernel, two keywords": Size(kernel=(15, 5), hidden=21, keywords=2),
    "second convolution": Size(kernel=(8, 6), stride=(6, 4), mix=(4, 2), hidden=24, layers=1, smoothing=5),
    "wide stride, one layer": Size(kernel=(11, 20), stride=(7, 8), layers=1),
    "three keywords, long window": Size(keywords=3, window=24),
    "an ensemble": Size(kernel=(8, 6), stride=(6, 4), mix=(4, 2), hidden=16, keywords=2, smoothing=4, members=3),
    "a ring only to average": Size(hidden=16, keywords=2, window=1, smoothing=3),
    "no ring, other hop, other scale": Size(stride=(2, 4), hidden=16, window=1, centre=20.7, scale=1.0),
}


@pytest.fixture(scope="module", params=SIZES, ids=SIZES)
def exported(request, tmp_path_factory):
    detector = random_detector(SIZES[request.param])
    folder = tmp_path_factory.mktemp("sizes")
    step = Step(detector.model)
    export_onnx(step, detector, folder / "model.onnx")
    quantize(folder / "model.onnx", detector, folder / "model.int8.onnx", CANDIDATES["dynamic"], {})
    export_torchscript(step, folder / "model.torchscript")
    return detector, folder


def test_parity(exported):
    detector, folder = exported
    forms = {name: onnx_form(folder / name, detector) for name in ("model.onnx", "model.int8.onnx")}
    forms["model.torchscript"] = torchscript_form(folder / "model.torchscript")
    parity = verify(detector, synthesise(), forms)
    assert parity["model.onnx"].largest < 1e-4
    assert parity["model.torchscript"].largest < 1e-4
    assert 0 < parity["model.int8.onnx"].largest < 0.05


def test_empty_states_are_left_out():
    assert list(state_shapes(SIZES["short kernel, two keywords"])) == ["tail", "hidden_0", "hidden_1", "ring"]
    assert "ring" not in state_shapes(SIZES["no ring, other hop, other scale"])
    assert "hidden_1" not in state_shapes(SIZES["wide stride, one layer"])
    assert list(state_shapes(SIZES["an ensemble"]))[-2:] == ["hidden_5", "ring"]


def test_onnxruntime_folds_the_front_end_when_it_loads(base):
    for name in ("model.onnx", "model.int8.onnx"):
        operations = executed_operations(base[1] / name)
        assert not {"Range", "Cos", "Mod", "Cast"} & set(operations)
        assert operations["MatMul"] == 4  # two halves of the DFT, filters, ring
        assert operations["Exp"] == 1  # of the attention; the filters' is folded
        assert operations.total() <= 75


def test_the_front_end_adds_less_than_4_kib(base):
    whole = onnx.shape_inference.infer_shapes(onnx.load(base[1] / "model.onnx"), data_prop=True)
    frames = next(node.output[0] for node in whole.graph.node if node.op_type == "Log")
    states = [value.name for value in whole.graph.input if value.name not in ("audio", "tail")]
    outputs = [value.name for value in whole.graph.output if value.name != "tail_next"]
    network = onnx.utils.Extractor(whole).extract_model([frames, *states], outputs)
    assert len(network.graph.initializer) >= 15
    del whole.graph.value_info[:], network.graph.value_info[:], whole.metadata_props[:]
    assert whole.ByteSize() - network.ByteSize() <= 4 * 1024


def test_silence_keeps_every_state_finite(base):
    detector = random_detector(Size())
    detector = replace(detector, keywords=["happy"], thresholds=[0.6], operating_points=[CURVE])
    for name in ("model.onnx", "model.int8.onnx"):
        form = onnx_form(base[1] / name, detector)
        states = detector.zeros()
        for _ in range(500):
            _, *states = form(np.zeros((1, 1280), np.float32), states)
        tail, context, *hidden, ring = states
        assert not tail.any() and not context.any()  # silence is zero
        assert all(np.abs(array).max() <= 1 for array in hidden)
        assert np.isfinite(ring).all() and (ring[:, 0] > 0).all()  # every slot is filled


def tampered(wrapped, change):
    """An exporter whose file's largest weight is changed afterwards."""

    def export(step, detector, path):
        wrapped(step, detector, path)
        model = onnx.load(path)
        largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weights = numpy_helper.to_array(largest).copy()
        change(weights)
        largest.CopyFrom(numpy_helper.from_array(weights, largest.name))
        onnx.save(model, path)

    return export


def test_tampered_weights_leave_the_older_bundle_alone(tmp_path, monkeypatch):
    detector = random_detector(Size(kernel=(15, 5), hidden=21))
    older = tmp_path / "dist" / "test" / "manifest.json"
    older.parent.mkdir(parents=True)
    older.write_text("older")

    def one_row(weights):
        weights[weights.shape[0] // 2] += 0.05

    monkeypatch.setattr(export.bundle, "export_onnx", tampered(export_onnx, one_row))
    with pytest.raises(VerifyError, match=r"^model\.onnx does not agree with the trained model: score differs by"):
        export_bundle(detector, tmp_path / "dist")
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["test"]
    assert [path.name for path in older.parent.iterdir()] == ["manifest.json"]
    assert older.read_text() == "older"


def test_verify_finds_memory_across_a_reset_and_nan():
    detector = random_detector(Size(kernel=(15, 5), hidden=21))
    step = Step(detector.model)
    audio = synthesise()[: 16_000 * 3]
    calls = 0

    def forgetful(hop, states):
        nonlocal calls
        calls += 1
        result = [t.numpy() for t in step(torch.from_numpy(hop), *map(torch.from_numpy, states))]
        result[0] = result[0] + 2e-6 * (calls > 37)  # within the tolerance, but not what it said before
        return result

    with pytest.raises(VerifyError, match="across a reset"):
        verify(detector, audio, {"model.onnx": forgetful})

    def broken(hop, states):
        result = [t.numpy() for t in step(torch.from_numpy(hop), *map(torch.from_numpy, states))]
        result[1][...] = float("nan")
        return result

    with pytest.raises(VerifyError, match="not finite at 0.00 s"):
        stream("model.onnx", broken, detector, audio)


def test_a_graph_that_lacks_a_state_breaks_the_contract(base):
    detector = random_detector(Size(layers=1))
    with pytest.raises(VerifyError, match="breaks the contract"):
        onnx_form(base[1] / "model.onnx", detector)
