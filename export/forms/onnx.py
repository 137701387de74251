"""The step as ONNX: one self-contained file for onnxruntime."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir
import torch
from onnxscript import optimizer

from export.detector import Detector
from export.step.step import Step

OPSET = 18  # torch's exporter writes it without converting; the step needs no newer one
WITH_WEIGHTS = ("Conv", "ConvInteger", "GRU", "Gemm", "MatMul", "MatMulInteger")  # that quantization may replace
FOLD_LIMIT = 64  # bytes: shapes and scalars are folded here, the DFT basis (636 KB) by onnxruntime when it loads


def export_onnx(step: Step, detector: Detector, path: Path) -> None:
    """Write `path` with the contract's inputs, outputs and metadata."""
    states = list(step.state_shapes)
    with quiet_exporter():
        program = torch.onnx.export(
            step,
            (torch.zeros(1, step.size.hop_samples), *step.zeros()),
            dynamo=True,
            optimize=False,  # it would fold the basis into the file
            verbose=False,
            opset_version=OPSET,
            input_names=["audio", *states],
            output_names=["score", *(f"{name}_next" for name in states)],
        )
    assert program is not None
    model = program.model
    optimizer.optimize(model, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
    proto = onnx_ir.to_proto(model)
    name_nodes(proto)
    write(proto, detector, path)


def write(proto: onnx.ModelProto, detector: Detector, path: Path) -> None:
    """Strip, check and write a model, with the contract's metadata and no other."""
    strip(proto)
    onnx.helper.set_model_props(proto, metadata(detector))
    proto.producer_name, proto.producer_version = "earshot", "1"
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def metadata(detector: Detector) -> dict[str, str]:
    """The contract's `metadata_props`."""
    curves = detector.operating_points
    return {
        "earshot_version": "1",
        "sample_rate": str(detector.sample_rate),
        "hop_samples": str(detector.hop_samples),
        "keywords": json.dumps(detector.keywords),
        "threshold": json.dumps(detector.thresholds),
        "refractory_hops": str(detector.refractory_hops),
        **({"operating_points": json.dumps(curves)} if curves else {}),
    }


def name_nodes(proto: onnx.ModelProto) -> None:
    """Call every node after the module of the step that it comes from: `members.0.cells.0.of_input/Gemm`."""
    used: dict[str, int] = {}
    for node in proto.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        path = scope_of(scopes)
        name = f"{path}/{node.op_type}" if path else node.op_type
        used[name] = used.get(name, 0) + 1
        node.name = name if used[name] == 1 else f"{name}_{used[name]}"


def scope_of(scopes: str) -> str:
    """`"['', 'members.0', 'members.0.attend', 'addmm']"` → `members.0.attend`; the last item is the operation."""
    items: list[str] = json.loads(scopes.replace("'", '"'))
    return items[-2] if len(items) > 1 else ""


def strip(proto: onnx.ModelProto) -> None:
    """Drop what no runtime reads: origins of nodes (55 KB), shapes that follow from the inputs', long names of
    intermediate values, and names of nodes without weights."""
    graph = proto.graph
    del graph.value_info[:]
    keep = {value.name for value in (*graph.input, *graph.output)} | {i.name for i in graph.initializer}
    short: dict[str, str] = {"": ""}
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        if node.op_type not in WITH_WEIGHTS:
            node.name = ""
        for output in node.output:
            short[output] = output if output in keep else f"v{len(short)}"
    for node in graph.node:
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short[name] for name in node.output]
    for item in (graph, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    del proto.metadata_props[:]


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without the exporter's notes on torchvision, which is not used."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")

    def about_others(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    logger.addFilter(about_others)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch|onnxscript|copyreg")
            warnings.filterwarnings("ignore", message="The tensor attributes .* were assigned during export")
            yield
    finally:
        logger.removeFilter(about_others)
