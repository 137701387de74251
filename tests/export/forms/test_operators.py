"""The runtime takes what an export can write, in every form, and nothing that none writes."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import toy
from random_models import random_detector

from export.audio import synthesise
from export.forms.onnx import export_onnx
from export.int8.quantize import CANDIDATES, calibrate, make_candidates
from export.step.step import Step, state_shapes
from runtime.bundle import onnx_sizes
from runtime.bundle.onnx_scan import scan
from training.model.crnn import Size

MIXED = Size(kernel=(8, 6), stride=(6, 4), mix=(4, 2), hidden=16, layers=1, keywords=2, smoothing=4, members=2)
TYPES = {kind: np.dtype(name) for kind, name in zip((1, 2, 3, 6, 7), ("f4", "u1", "i1", "i4", "i8"), strict=True)}


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> dict[str, tuple[bytes, dict[str, tuple[int, ...]]]]:
    """Every candidate of a model that has all that a model can have, and the toy: the file and its inputs' shapes."""
    folder, detector = tmp_path_factory.mktemp("forms"), random_detector(MIXED)
    source = folder / "model.onnx"
    export_onnx(Step(detector.model), detector, source)
    ranges = calibrate(source, detector, synthesise()[:16_000])
    detector = replace(detector, trained_ranges=ranges)
    files = {"float": source, **make_candidates(CANDIDATES, source, detector, ranges, folder)}
    inputs = {"audio": (1, detector.hop_samples)} | state_shapes(MIXED)
    found = {name: (path.read_bytes(), inputs) for name, path in files.items()}
    bundle = toy.write_bundle(folder / "toy")
    of_toy = {"audio": (1, toy.HOP)} | {state["name"]: tuple(state["shape"]) for state in toy.MANIFEST["states"]}
    return found | {"toy": ((bundle / "model.onnx").read_bytes(), of_toy)}


def test_every_form_is_taken_and_every_operator_and_attribute_is_of_one(forms):
    used: dict[str, set[str]] = {}
    for content, inputs in forms.values():
        graph = scan(content)
        onnx_sizes.check_sizes(graph, inputs)
        for node in graph.nodes:
            used.setdefault(node.operator, set()).update(node.attributes)
    assert used == {name: set(operator.attributes) for name, operator in onnx_sizes.OPERATORS.items()}


def test_sizes_are_those_that_onnxruntime_computes(forms, monkeypatch):
    """Of every result, and its type."""
    for name, (content, inputs) in forms.items():
        thought: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        enter = onnx_sizes._enter

        def noting(known, name, tensor, enter=enter, thought=thought):
            thought[name] = TYPES[tensor.type], tensor.shape
            return enter(known, name, tensor)

        with monkeypatch.context() as patched:
            patched.setattr(onnx_sizes, "_enter", noting)
            onnx_sizes.check_sizes(scan(content), inputs)
        computed = results(content, inputs)
        assert {key: thought[key] for key in computed} == computed, name


def results(content: bytes, inputs: dict[str, tuple[int, ...]]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of every result of a graph, by its name."""
    model = onnx.load_from_string(content)
    there = {value.name for value in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name and name not in there]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = session.run(None, {name: np.zeros(shape, np.float32) for name, shape in inputs.items()})
    names = [value.name for value in session.get_outputs()]
    return {name: (array.dtype, array.shape) for name, array in zip(names, arrays, strict=True)}
