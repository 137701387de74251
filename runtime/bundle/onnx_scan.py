"""Reads an ONNX file before onnxruntime gets it, and takes only what a step function needs.

FIELDS lists all that may be there: operators whose attributes are numbers or words, and weights inside the file. What
else the format offers is refused: weights in other files, sparse tensors, texts, functions, graphs within the graph (a
loop can run for ever). Which operators there may be, and how large their results, `onnx_sizes` says.

The format is protobuf: fields of a number, a kind and a value, nested. Numbers are from onnx.proto, whose messages do
not change. Where two readers could understand the same bytes differently, the file is refused.
"""

import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

MOST_FIELDS = 50_000  # some 8000 operations; happy-ensemble has 316
MOST_DIMENSIONS = 8
MOST_VALUES = 64  # of a tensor that a shape may depend on
OPSET = 18  # whose rules `onnx_sizes` knows
FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7  # of TensorProto.DataType
ITEM_BYTES = {FLOAT: 4, UINT8: 1, INT8: 1, INT32: 4, INT64: 8}

# How a field is written: protobuf's kinds (0: whole number, 2: bytes with their length, 5: four bytes), and * where it
# may come more than once.
NUMBER, REAL, BYTES = "0", "5", "2"
NUMBERS, REALS, MANY = "02*", "25*", "2*"

FIELDS: dict[str, dict[int, tuple[str, str]]] = {
    "model": {
        1: ("ir_version", NUMBER), 2: ("producer_name", BYTES), 3: ("producer_version", BYTES), 4: ("domain", BYTES),
        5: ("model_version", NUMBER), 6: ("doc_string", BYTES), 7: ("graph", MANY), 8: ("opset_import", MANY),
        14: ("metadata_props", MANY),
    },
    "opset": {1: ("domain", BYTES), 2: ("version", NUMBER)},
    "entry": {1: ("key", BYTES), 2: ("value", BYTES)},
    "graph": {
        1: ("node", MANY), 2: ("name", BYTES), 5: ("initializer", MANY), 10: ("doc_string", BYTES), 11: ("input", MANY),
        12: ("output", MANY),
    },
    "node": {
        1: ("input", MANY), 2: ("output", MANY), 3: ("name", BYTES), 4: ("op_type", BYTES), 5: ("attribute", MANY),
        6: ("doc_string", BYTES), 7: ("domain", BYTES),
    },
    "attribute": {
        1: ("name", BYTES), 2: ("f", REAL), 3: ("i", NUMBER), 4: ("s", BYTES), 8: ("ints", NUMBERS),
        20: ("type", NUMBER),
    },
    "tensor": {
        1: ("dims", NUMBERS), 2: ("data_type", NUMBER), 4: ("float_data", REALS), 5: ("int32_data", NUMBERS),
        7: ("int64_data", NUMBERS), 8: ("name", BYTES), 9: ("raw_data", BYTES), 12: ("doc_string", BYTES),
        14: ("data_location", NUMBER),
    },
}
ATTRIBUTE_VALUES = {1: "f", 2: "i", 3: "s", 7: "ints"}  # by AttributeProto.AttributeType
EXTERNAL = "keeps weights in another file (external data)"
WITHIN = "holds a graph within the graph, such as a loop"
REFUSED = {
    ("model", 20): "holds a training graph", ("model", 25): "holds functions", ("graph", 15): "holds sparse tensors",
    ("attribute", 6): WITHIN, ("attribute", 11): WITHIN, ("tensor", 6): "holds texts", ("tensor", 13): EXTERNAL,
}


class ScanError(Exception):
    """An ONNX file that must not be loaded. The message is what is wrong with it."""


class Tensor(NamedTuple):
    """type: a TensorProto.DataType. values: of a short int64 constant, which a shape may depend on."""

    type: int
    shape: tuple[int, ...]
    values: tuple[int, ...] | None = None


class Node(NamedTuple):
    """An operation; an optional input or output that is left out has an empty name."""

    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]  # int, list of int, bytes, or None for a float


class Model(NamedTuple):
    metadata: dict[str, str]
    weights: dict[str, Tensor]
    nodes: list[Node]


def scan(content: bytes) -> Model:
    """An ONNX model in which there is nothing suspicious. Raises ScanError."""
    budget = [MOST_FIELDS]
    model = _message(memoryview(content), "model", budget)
    if len(model["graph"]) != 1:
        raise ScanError(f"holds {len(model['graph'])} graphs instead of one")
    graph = _message(model["graph"][0], "graph", budget)
    nodes = [_node(_message(message, "node", budget), budget) for message in graph["node"]]
    weights: dict[str, Tensor] = {}
    for message in graph["initializer"]:
        name, tensor = _tensor(_message(message, "tensor", budget), budget)
        if name in weights:
            raise ScanError("has two weights of one name")
        weights[name] = tensor
    versions = []
    for message in model["opset_import"]:
        opset = _message(message, "opset", budget)
        _check_domain(opset)
        versions += opset["version"]
    if versions != [OPSET]:
        raise ScanError(f"is not of opset {OPSET}")
    return Model(_metadata(model["metadata_props"], budget), weights, nodes)


def _metadata(messages: list[Any], budget: list[int]) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for message in messages:
        entry = _message(message, "entry", budget)
        key, value = _text(entry["key"]), _text(entry["value"])
        if key in metadata:
            raise ScanError("has a key twice in its metadata")
        metadata[key] = value
    return metadata


def _node(node: dict[str, list[Any]], budget: list[int]) -> Node:
    _check_domain(node)
    attributes: dict[str, Any] = {}
    for message in node["attribute"]:
        attribute = _message(message, "attribute", budget)
        name, kind = _text(attribute["name"]), ATTRIBUTE_VALUES.get(*attribute["type"] or [0])
        held = [field for field in ATTRIBUTE_VALUES.values() if attribute[field]]
        # onnxruntime reads the value that the type names, and zero where there is none.
        if kind is None or held not in ([], [kind]) or name in attributes:
            raise ScanError("has an attribute that is no number")
        values = attribute[kind]
        if kind == "ints":
            attributes[name] = _wholes(values, budget)
        elif kind == "i":
            attributes[name] = _whole(*values or [0])
        else:
            attributes[name] = b"".join(values) if kind == "s" else None
    names = [_text([name]) for name in (*node["input"], *node["output"])]
    inputs = len(node["input"])
    return Node(_text(node["op_type"]), names[:inputs], names[inputs:], attributes)


def _check_domain(message: dict[str, list[Any]]) -> None:
    if name := _text(message["domain"]):
        raise ScanError(f"needs custom operators, of {name[:40]}")


def _tensor(tensor: dict[str, list[Any]], budget: list[int]) -> tuple[str, Tensor]:
    if tensor["data_location"] not in ([], [0]):
        raise ScanError(EXTERNAL)
    kind, shape = [*tensor["data_type"], 0][0], tuple(_wholes(tensor["dims"], budget))
    if kind not in ITEM_BYTES:
        raise ScanError(f"has weights of type {kind}")
    if len(shape) > MOST_DIMENSIONS or not all(length > 0 for length in shape):
        raise ScanError("has weights of an odd shape")
    size = math.prod(shape)
    raw = tensor["raw_data"]
    if raw and len(raw[0]) != size * ITEM_BYTES[kind]:
        raise ScanError("has weights of another size than it says")
    values = None
    if kind == INT64 and size <= MOST_VALUES:
        values = struct.unpack(f"<{size}q", *raw) if raw else tuple(_wholes(tensor["int64_data"], budget))
        if len(values) != size:
            raise ScanError("has weights of another size than it says")
    return _text(tensor["name"]), Tensor(kind, shape, values)


def _text(values: list[Any]) -> str:
    try:
        return b"".join(values).decode()
    except UnicodeDecodeError:
        raise ScanError("has a name that is no text") from None


def _whole(value: int) -> int:
    """Negative numbers are written as what they are modulo 2^64."""
    return value - (1 << 64) if value >> 63 else value


def _wholes(values: list[Any], budget: list[int]) -> list[int]:
    """Whole numbers one by one, or packed into bytes."""
    found = []
    for value in values:
        if isinstance(value, int):
            found.append(_whole(value))
            continue
        place = 0
        while place < len(value):
            number, place = _varint(value, place)
            found.append(_whole(number))
            _spend(budget)
    return found


def _message(message: memoryview, kind: str, budget: list[int]) -> dict[str, list[Any]]:
    """The fields of a message by name: whole numbers as they are, all else as bytes. Raises ScanError for any that is
    not in FIELDS."""
    fields = FIELDS[kind]
    found: dict[str, list[Any]] = {name: [] for name, _ in fields.values()}
    for number, wire, value in _fields(message, budget):
        if number not in fields:
            raise ScanError(REFUSED.get((kind, number), f"holds what no step needs (field {number} of {kind})"))
        name, form = fields[number]
        if str(wire) not in form or (found[name] and "*" not in form):
            raise ScanError("is damaged or no ONNX model")
        found[name].append(value)
    return found


def _fields(message: memoryview, budget: list[int]) -> Iterator[tuple[int, int, Any]]:
    """Number, kind and value of each field. budget: fields still allowed."""
    place = 0
    while place < len(message):
        _spend(budget)
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if number == 0 or number >= 1 << 29:  # others may read its lowest bits alone
            raise ScanError("is damaged or no ONNX model")
        if wire == 0:
            value, place = _varint(message, place)
            yield number, wire, value
            continue
        if wire == 2:
            length, place = _varint(message, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ScanError("is damaged or no ONNX model")
        if length > len(message) - place:
            raise ScanError("is damaged or no ONNX model")
        yield number, wire, message[place : place + length]
        place += length


def _spend(budget: list[int]) -> None:
    budget[0] -= 1
    if budget[0] < 0:
        raise ScanError(f"has more than {MOST_FIELDS} fields")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Seven bits per byte, the lowest first; the eighth says that more follow."""
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128 and value < 1 << 64:
            return value, place
    raise ScanError("is damaged or no ONNX model")
