"""int8: the step's matrix products and convolution by onnxruntime's quantizer, in several candidate forms.

*Static* (QDQ): one scale for each tensor of activations, from calibrated or trained ranges, and one for each column of
weights; onnxruntime runs it as QLinearConv and QGemm. *Dynamic*: scales follow each activation at run time.

Weights and activations are unsigned, so that every CPU computes the same sums. On x86 with AVX2 and without VNNI,
onnxruntime adds two products of an unsigned activation and a signed weight in 16 bits, which saturate
(`saturating_nodes`).

`measure.py` judges the candidates on recordings, `choose.py` chooses one.
"""

import logging
import math
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantType,
    TensorsData,
    quantize_dynamic,
    quantize_static,
    save_tensors_data,
)

from export.detector import Detector
from export.forms.onnx import WITH_WEIGHTS, write
from export.int8.recorded import Ranges
from export.verify import one_thread_session

FRONT_END = "front_end/"
RING = "MatMul"  # the sum over the ring is the only one, besides the front end's: all others are Gemm
PART = re.compile(r"members\.\d+\.(?:cells\.(?P<layer>\d+)\.)?(?P<module>\w+)/")  # of a node's name


@dataclass(frozen=True)
class Candidate:
    method: str  # dynamic or static
    left_float: tuple[str, ...] = (RING,)  # operations, besides the front end
    trained: bool = False  # ranges of a quantization-aware training instead of calibrated ones


CANDIDATES = {
    "dynamic": Candidate("dynamic"),
    "dynamic-convolution-float": Candidate("dynamic", left_float=(RING, "Conv")),
    "static": Candidate("static"),
    "static-convolution-float": Candidate("static", left_float=(RING, "Conv")),
    "static-trained": Candidate("static", trained=True),
}


def file_of(candidate: str) -> str:
    """Name of a candidate's file in a bundle that keeps it besides the chosen one."""
    return f"model.{candidate}.onnx"


def make_candidates(
    names: Iterable[str], source: Path, detector: Detector, calibrated: Ranges, folder: Path
) -> dict[str, Path]:
    """Write the named candidates below `folder` and return their files by name.

    source: the float step as ONNX; calibrated: of `calibrate`, not read by dynamic and trained candidates.
    """
    files = {name: folder / file_of(name) for name in names}
    for name, file in files.items():
        candidate = CANDIDATES[name]
        quantize(source, detector, file, candidate, detector.trained_ranges if candidate.trained else calibrated)
    return files


def quantize(source: Path, detector: Detector, path: Path, candidate: Candidate, ranges: Ranges) -> None:
    """Float `source` → int8 `path`. The quantizer's own preprocessing is left out: it would fold the DFT basis."""
    graph = onnx.load(source).graph
    left_float = [n.name for n in graph.node if n.name.startswith(FRONT_END) or n.op_type in candidate.left_float]
    with quiet_quantizer(), tempfile.TemporaryDirectory() as scratch:
        quantized = Path(scratch) / "model.onnx"
        if candidate.method == "dynamic":
            quantize_dynamic(
                source,
                quantized,
                op_types_to_quantize=["MatMul", "Conv"],  # the quantizer writes Gemm as MatMul and Add first
                nodes_to_exclude=left_float,
                per_channel=True,
                weight_type=QuantType.QUInt8,
            )
        else:
            cache = Path(scratch) / "ranges.json"
            save_tensors_data(tensors_data(activations(graph), ranges), cache)
            quantize_static(
                source,
                quantized,
                calibration_cache_path=cache,
                op_types_to_quantize=["MatMul", "Gemm", "Conv", "Relu"],
                nodes_to_exclude=left_float,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QUInt8,
                extra_options={
                    # What follows a product is float: sigmoid, tanh, the ring.
                    "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
                    "QDQOpTypePerChannelSupportToAxis": {"Gemm": 1},
                },
            )
        write(onnx.load(quantized), detector, path)


def activations(graph: onnx.GraphProto) -> dict[str, str]:
    """Tensors of a float graph that are quantized, weights apart → names of their ranges, which the members of an
    ensemble share."""
    parts = {node.name: part for node in graph.node if (part := PART.match(node.name))}
    last = max(int(part["layer"] or 0) for part in parts.values())
    followers = {node.input[0]: node for node in graph.node if node.op_type == "Relu"}
    ranges: dict[str, str] = {}
    for node in graph.node:
        part = parts.get(node.name)
        module, layer = (part["module"], int(part["layer"] or 0)) if part else ("", 0)
        if node.op_type == "Conv":
            after = followers.get(node.output[0], node)  # a Relu, which the quantizer fuses with the convolution
            of_input = ranges.get(node.input[0], "frames")  # the second convolution reads the output of the first
            of_output = "heard" if of_input == "frames" and after is not node else "columns"
            ranges |= {node.input[0]: of_input, node.output[0]: of_output, after.output[0]: of_output}
        elif module == "of_input":
            ranges[node.input[0]] = f"hidden_{layer - 1}" if layer else "columns"
        elif module == "of_hidden":
            ranges[node.input[0]] = f"hidden_{layer}"
        elif module in ("attend", "votes"):
            ranges[node.input[0]] = f"hidden_{last}"
        elif module == "energy":
            ranges[node.input[0]] = "attended"
    return ranges


def calibrate(source: Path, detector: Detector, audio: NDArray[np.float32]) -> Ranges:
    """Lowest and highest value of each activation, states too, over one stream from zero state on.

    source: the float step as ONNX; audio: (samples,).
    """
    model = onnx.load(source)
    names = activations(model.graph)
    rectified = {node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    names = {tensor: name for tensor, name in names.items() if tensor not in rectified}  # the Relu's output counts
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    for tensor in names:
        if tensor not in known:
            model.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    session = one_thread_session(model.SerializeToString())
    outputs = [value.name for value in session.get_outputs()]
    inputs, states = [value.name for value in session.get_inputs()], detector.zeros()
    ranges = dict.fromkeys(names.values(), (0.0, 0.0))
    for start in range(0, len(audio) - detector.hop_samples + 1, detector.hop_samples):
        feed = dict(zip(inputs, [audio[None, start : start + detector.hop_samples], *states], strict=True))
        results = session.run(None, feed)
        states = results[1 : len(states) + 1]
        values = feed | dict(zip(outputs, results, strict=True))
        for tensor, name in names.items():
            low, high = ranges[name]
            ranges[name] = min(low, float(values[tensor].min())), max(high, float(values[tensor].max()))
    return ranges


def tensors_data(names: dict[str, str], ranges: Ranges) -> TensorsData:
    """As the quantizer wants them. names: of `activations`.

    Values of hidden units are spread around zero and lie in −1…1: their range is widened to a power of two, so that
    zero, and the constant 1 that the votes begin with, are whole numbers of steps.
    """
    data = {}
    for tensor, name in names.items():
        low, high = ranges.get(name, (0.0, 0.0))
        if name.startswith("hidden") or name == "attended":
            largest = 2.0 ** math.ceil(math.log2(max(-low, high, 1e-3)))
            low, high = -largest, largest * 127 / 128
        data[tensor] = np.array(low, np.float32), np.array(high, np.float32)
    return TensorsData(CalibrationMethod.MinMax, data)


def precision(source: Path, path: Path) -> dict[str, bool]:
    """Of every node with weights in float `source`, by name: does `path` compute it in integers?"""
    graph = onnx.load(path).graph
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    integer = set()
    for node in graph.node:
        if node.op_type in ("MatMulInteger", "ConvInteger"):
            integer.add(node.name.removesuffix("_quant").removesuffix("_MatMul"))
        elif node.op_type in WITH_WEIGHTS and dequantized.issuperset(node.input):
            integer.add(node.name)
    return {node.name: node.name in integer for node in onnx.load(source).graph.node if node.op_type in WITH_WEIGHTS}


SAFE = 64  # largest magnitude of a signed weight: 2 products with 255 stay below 2**15


def saturating_nodes(path: Path) -> list[str]:
    """Nodes of an int8 file whose sums depend on the CPU: their weights are signed and exceed SAFE.

    On x86 with AVX2 and without VNNI, onnxruntime multiplies by `vpmaddubsw`, which adds two neighbouring products of
    an unsigned and a signed byte in 16 bits, saturating. Unsigned weights take another path, which is exact.
    """
    graph = onnx.load(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    signed = {}
    for name, tensor in constants.items():
        if tensor.data_type == onnx.TensorProto.INT8:
            signed[name] = int(np.abs(numpy_helper.to_array(tensor).astype(int)).max(initial=0)) > SAFE
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in signed:
            signed[node.output[0]] = signed[node.input[0]]
    return [node.name for node in graph.node if node.op_type in WITH_WEIGHTS and any(map(signed.get, node.input))]


@contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Without its advice to preprocess, which would fold the DFT basis into the file."""
    logger = logging.getLogger()

    def about_others(record: logging.LogRecord) -> bool:
        return "pre-processing" not in record.getMessage()

    logger.addFilter(about_others)
    try:
        yield
    finally:
        logger.removeFilter(about_others)
