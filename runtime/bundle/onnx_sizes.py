"""How large the results of a graph are, and how much work they take, worked out before anything is computed.

A graph of a few hundred bytes can ask for any amount of memory and time: when it is loaded, as onnxruntime computes
then what depends on constants alone, or at the first loud sound. Here every shape follows from the shapes of inputs and
weights and from constants in the file, never from audio, and a graph where that is not so is refused. A step is then
the same work whatever it hears, and a trial says what it takes.

OPERATORS has what export/ writes, each with its attributes and with its rule; no other operator is taken. A rule may
take a graph for good that onnxruntime refuses, but must not think it smaller than it is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from runtime.bundle.onnx_scan import (
    FLOAT,
    INT32,
    INT64,
    ITEM_BYTES,
    MOST_DIMENSIONS,
    UINT8,
    Model,
    Node,
    ScanError,
    Tensor,
)

LARGEST_RESULTS = 4 << 20  # elements of all weights and results together
MOST_WORK = 50_000_000  # multiplications, and elements read and written, of a step and of loading together

Shape = tuple[int, ...]
Inputs = Sequence[Any]  # Tensor, or None for an optional one that is left out
Results = tuple[list[Tensor], int]  # and how many multiplications they take


def check_sizes(model: Model, inputs: Mapping[str, Shape]) -> None:
    """Raises ScanError when the graph has an operator that is not in OPERATORS, or needs more than there may be.

    inputs: the shapes of the graph's inputs, all float32, by name.
    """
    known: dict[str, Tensor] = {}
    elements = work = 0
    for name, tensor in (*model.weights.items(), *((name, Tensor(FLOAT, shape)) for name, shape in inputs.items())):
        elements += _enter(known, name, tensor)
    for node in model.nodes:
        read = [_read(known, name) if name else None for name in node.inputs]
        results, multiplications = _results(node, read)
        made = sum(_enter(known, name, result) for name, result in zip(node.outputs, results, strict=False))
        elements += made
        work += multiplications + made + sum(_size(tensor.shape) for tensor in read if tensor)
        if elements > LARGEST_RESULTS or work > MOST_WORK:
            break
    if elements > LARGEST_RESULTS:
        raise ScanError(f"its weights and results have more than {LARGEST_RESULTS} elements")
    if work > MOST_WORK:
        raise ScanError(f"its step takes more than {MOST_WORK} operations")


def _enter(known: dict[str, Tensor], name: str, tensor: Tensor) -> int:
    """Note a tensor and return how many elements it has."""
    if name in known:
        raise ScanError(f"has two tensors of the name {name[:40]}")
    if len(tensor.shape) > MOST_DIMENSIONS or not all(length > 0 for length in tensor.shape):
        raise ScanError(f"its {name[:40]} has an odd shape")
    if name:
        known[name] = tensor
    return _size(tensor.shape)


def _read(known: dict[str, Tensor], name: str) -> Tensor:
    if name not in known:
        raise ScanError(f"reads {name[:40]}, which is none of the states in the manifest and is not made before")
    return known[name]


def _results(node: Node, inputs: Inputs) -> Results:
    name = node.operator
    if name not in OPERATORS:
        raise ScanError(f"needs the operator {name[:40]}, which no export writes")
    operator = OPERATORS[name]
    for attribute in node.attributes:
        if attribute not in operator.attributes:
            raise ScanError(f"gives {name} the attribute {attribute[:40]}, which no export writes")
    try:
        results, multiplications = operator.rule(node, inputs)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # missing or senseless inputs
        raise ScanError(f"has a {name} that makes no sense") from None
    if len(node.outputs) > len(results):
        raise ScanError(f"has a {name} of too many outputs")
    return results, multiplications


# Rules. Inputs are in the order of ONNX's operator list.


def _size(shape: Shape) -> int:
    return math.prod(shape)


def _constants(tensor: Tensor | None) -> tuple[int, ...]:
    """What a shape depends on."""
    if tensor is None or tensor.values is None:
        raise ScanError("has a shape that does not follow from short constants in the file")
    return tensor.values


def _one(kind: int, shape: Sequence[int], multiplications: int = 0) -> Results:
    return [Tensor(kind, tuple(shape))], multiplications


def _same(node: Node, x: Inputs) -> Results:
    return _one(x[0].type, x[0].shape)


def _floats(node: Node, x: Inputs) -> Results:
    return _one(FLOAT, x[0].shape)


def _cast(node: Node, x: Inputs) -> Results:
    if node.attributes["to"] not in ITEM_BYTES:
        raise ScanError(f"has a Cast to type {node.attributes['to']}")
    return _one(node.attributes["to"], x[0].shape)


def _broadcast(node: Node, x: Inputs) -> Results:
    rank = max(len(tensor.shape) for tensor in x)
    columns = zip(*((1,) * (rank - len(tensor.shape)) + tensor.shape for tensor in x), strict=True)
    return _one(x[0].type, [max(column) for column in columns])


def _divide(node: Node, x: Inputs) -> Results:
    """Whole numbers divided by zero, or the lowest by -1, end the process."""
    if x[0].type != FLOAT and not (x[1].values and min(x[1].values) > 0):
        raise ScanError(f"has a {node.operator} that may end the process")
    return _broadcast(node, x)


def _concat(node: Node, x: Inputs) -> Results:
    axis, shape = node.attributes["axis"], list(x[0].shape)
    shape[axis] = sum(tensor.shape[axis] for tensor in x)
    return _one(x[0].type, shape)


def _gather(node: Node, x: Inputs) -> Results:
    axis = range(len(x[0].shape))[node.attributes.get("axis", 0)]
    return _one(x[0].type, x[0].shape[:axis] + x[1].shape + x[0].shape[axis + 1 :])


def _range(node: Node, x: Inputs) -> Results:
    (start,), (end,), (step,) = map(_constants, x)
    return _one(INT64, [max(0, -(-(end - start) // step))])


def _reshape(node: Node, x: Inputs) -> Results:
    before, shape = x[0].shape, list(_constants(x[1]))
    if not node.attributes.get("allowzero"):
        shape = [length or before[axis] for axis, length in enumerate(shape)]
    if -1 in shape:
        shape[shape.index(-1)] = _size(before) // -_size(tuple(shape))
    return _one(x[0].type, shape)


def _slice(node: Node, x: Inputs) -> Results:
    starts, ends = _constants(x[1]), _constants(x[2])
    axes = _constants(x[3]) if len(x) > 3 else range(len(starts))
    steps = _constants(x[4]) if len(x) > 4 else [1] * len(starts)
    shape = list(x[0].shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        shape[axis] = len(range(x[0].shape[axis])[start:end:step])
    return _one(x[0].type, shape)


def _split(node: Node, x: Inputs) -> Results:
    axis, parts = node.attributes.get("axis", 0), len(node.outputs)
    length = x[0].shape[axis]
    each = -(-length // parts)
    sizes = _constants(x[1]) if len(x) > 1 else (*[each] * (parts - 1), length - each * (parts - 1))
    if len(sizes) != parts or node.attributes.get("num_outputs", parts) != parts:
        raise ValueError
    results = []
    for size in sizes:
        shape = list(x[0].shape)
        shape[axis] = size
        results.append(Tensor(x[0].type, tuple(shape)))
    return results, 0


def _unsqueeze(node: Node, x: Inputs) -> Results:
    shape, axes = list(x[0].shape), _constants(x[1])
    new = range(len(shape) + len(axes))
    for axis in sorted(new[axis] for axis in axes):
        shape.insert(axis, 1)
    return _one(x[0].type, shape)


def _reduce(node: Node, x: Inputs) -> Results:
    shape = list(x[0].shape)
    for axis in sorted((range(len(shape))[axis] for axis in _constants(x[1])), reverse=True):
        shape[axis : axis + 1] = [1] if node.attributes.get("keepdims", 1) else []
    return _one(x[0].type, shape)


def _matmul(node: Node, x: Inputs) -> Results:
    a, b = (tensor.shape for tensor in x[:2])
    rank = max(len(a), len(b))
    batch = [max(pair) for pair in zip((1,) * (rank - len(a)) + a[:-2], (1,) * (rank - len(b)) + b[:-2], strict=True)]
    shape = (*batch, a[-2], b[-1])
    return _one(INT32 if node.operator == "MatMulInteger" else x[0].type, shape, _size(shape) * a[-1])


def _gemm(node: Node, x: Inputs) -> Results:
    (rows, inner), (first, second) = x[0].shape, x[1].shape
    if node.attributes.get("transA"):
        rows, inner = inner, rows
    columns = first if node.attributes.get("transB") else second
    return _one(x[0].type, (rows, columns), rows * inner * columns)


def _convolution(node: Node, x: Inputs) -> Results:
    batch, _, *sides = x[0].shape
    channels, _, *kernel = x[1].shape
    given, axes = node.attributes, len(sides)
    if given.get("auto_pad", b"NOTSET") != b"NOTSET" or given.get("kernel_shape", kernel) != kernel:
        raise ValueError
    group, strides = given.get("group", 1), given.get("strides", [1] * axes)
    dilations, pads = given.get("dilations", [1] * axes), given.get("pads", [0] * 2 * axes)
    if min(group, *strides, *dilations) < 1 or min(pads) < 0:
        raise ValueError
    out = [(side + before + after - dilation * (length - 1) - 1) // stride + 1
           for side, before, after, dilation, length, stride
           in zip(sides, pads[:axes], pads[axes:], dilations, kernel, strides, strict=True)]
    shape = (batch, channels, *out)
    kind = INT32 if node.operator == "ConvInteger" else x[0].type
    return _one(kind, shape, _size(shape) * _size(x[1].shape) // channels)


def _quantize(node: Node, x: Inputs) -> Results:
    return _one(x[2].type, x[0].shape)


def _quantize_dynamic(node: Node, x: Inputs) -> Results:
    return [Tensor(UINT8, x[0].shape), Tensor(FLOAT, ()), Tensor(UINT8, ())], 0


class Operator(NamedTuple):
    rule: Callable[[Node, Inputs], Results]
    attributes: frozenset[str] = frozenset()


def _operator(rule: Callable[[Node, Inputs], Results], attributes: str = "") -> Operator:
    return Operator(rule, frozenset(attributes.split()))


CONVOLUTION = "auto_pad dilations group kernel_shape pads strides"
OPERATORS = {
    "Add": _operator(_broadcast),
    "Cast": _operator(_cast, "to"),
    "Clip": _operator(_same),
    "Concat": _operator(_concat, "axis"),
    "Conv": _operator(_convolution, CONVOLUTION),
    "ConvInteger": _operator(_convolution, CONVOLUTION),
    "Cos": _operator(_same),
    "DequantizeLinear": _operator(_floats, "axis"),
    "Div": _operator(_divide),
    "DynamicQuantizeLinear": _operator(_quantize_dynamic),
    "Exp": _operator(_same),
    "Gather": _operator(_gather, "axis"),
    "Gemm": _operator(_gemm, "alpha beta transA transB"),
    "Log": _operator(_same),
    "MatMul": _operator(_matmul),
    "MatMulInteger": _operator(_matmul),
    "Max": _operator(_broadcast),
    "Min": _operator(_broadcast),
    "Mod": _operator(_divide, "fmod"),
    "Mul": _operator(_broadcast),
    "QuantizeLinear": _operator(_quantize),
    "Range": _operator(_range),
    "ReduceMean": _operator(_reduce),
    "ReduceSum": _operator(_reduce, "keepdims noop_with_empty_axes"),
    "Relu": _operator(_same),
    "Reshape": _operator(_reshape, "allowzero"),
    "Sigmoid": _operator(_same),
    "Slice": _operator(_slice),
    "Split": _operator(_split, "axis num_outputs"),
    "Sub": _operator(_broadcast),
    "Tanh": _operator(_same),
    "Unsqueeze": _operator(_unsqueeze),
}
