"""int8: dynamic quantization of the step's matrix products, with onnxruntime's quantizer.

Weights are unsigned 8 bits with a scale and a zero point for each column; activations are quantized as they come. Why
unsigned: what dynamic quantization makes of activations is unsigned, and an unsigned × signed product saturates its
16-bit sums on x86 CPUs with AVX2 but without VNNI; unsigned × unsigned is exact everywhere and takes the same space.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.detector import Detector
from export.onnx import WITH_WEIGHTS, write

FRONT_END = "front_end/"

# What stays float, and why: shown in the report. Module of the step → reason.
FLOAT = {
    "front_end": "its matrices are a recipe of 3 KB, not weights; as int8 numbers they would take 96 KB",
    "conv": "as ConvInteger it takes four nodes more, for a small share of the weights",
    "MatMul": "adds up the ring of the attention; it holds no weights",
}


def quantize(source: Path, detector: Detector, path: Path) -> None:
    """Float `source` → int8 `path`. The quantizer's own preprocessing is left out: it would fold the DFT basis."""
    nodes = onnx.load(source).graph.node
    with quiet_quantizer(), tempfile.TemporaryDirectory() as scratch:
        quantized = Path(scratch) / "model.onnx"
        quantize_dynamic(
            source,
            quantized,
            op_types_to_quantize=["MatMul"],  # the quantizer writes Gemm as MatMul and Add first
            nodes_to_exclude=[node.name for node in nodes if node.name.startswith(FRONT_END)],
            per_channel=True,
            weight_type=QuantType.QUInt8,
        )
        write(onnx.load(quantized), detector, path)


def precision(source: Path, path: Path) -> list[tuple[str, str, str]]:
    """What became of every node with weights: (name in the float model, "int8" or "float", reason when float)."""
    integer = [node.name for node in onnx.load(path).graph.node if node.op_type in ("MatMulInteger", "ConvInteger")]
    rows = []
    for node in onnx.load(source).graph.node:
        if node.op_type in WITH_WEIGHTS:
            is_integer = any(name.startswith(f"{node.name}_") for name in integer)
            reason = "" if is_integer else FLOAT.get(node.name.split("/")[0], "the quantizer left it out")
            rows.append((node.name, "int8" if is_integer else "float", reason))
    return rows


@contextmanager
def quiet_quantizer() -> Iterator[None]:
    """Without its advice to preprocess, which we may not follow."""
    logger = logging.getLogger()

    def about_others(record: logging.LogRecord) -> bool:
        return "consider to run pre-processing" not in record.getMessage()

    logger.addFilter(about_others)
    try:
        yield
    finally:
        logger.removeFilter(about_others)
