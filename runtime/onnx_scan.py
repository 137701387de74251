"""Looks through an ONNX file before onnxruntime gets it, and says what in it could reach beyond the model.

A step function needs nothing but standard operators on weights inside the file. Whatever else the format offers is
refused: weights in other files, operators of others, functions and graphs within the graph (a loop can run for ever).

The format is protobuf: fields of a number, a kind and a value, nested. Numbers are from onnx.proto, whose messages do
not change. Where two readers could understand the same bytes differently, the file is refused.
"""

from collections.abc import Iterator

DOMAINS = {b"", b"ai.onnx", b"com.microsoft"}  # all built into onnxruntime; the last has its fused operators
MOST_FIELDS = 200_000  # real models have a few thousand
DATA_LOCATION = 14  # of a tensor; 0 is inside the file

# Which fields of a message hold messages worth looking into
INSIDE: dict[str, dict[int, str]] = {
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}


class ScanError(Exception):
    """An ONNX file that must not be loaded. The message is what is wrong with it."""


def scan(content: bytes) -> dict[str, str]:
    """Metadata of an ONNX model in which there is nothing suspicious. Raises ScanError."""
    metadata: dict[str, str] = {}
    graphs = 0
    budget = [MOST_FIELDS]
    for number, value in _fields(memoryview(content), budget):
        if number in (20, 25):
            raise ScanError("holds functions" if number == 25 else "holds a training graph")
        if number == 7 and isinstance(value, memoryview):
            graphs += 1
            _look(value, "graph", budget)
        elif number == 14 and isinstance(value, memoryview):
            key, text = _entry(value, budget)
            if key in metadata:
                raise ScanError("has a key twice in its metadata")
            metadata[key] = text
    if graphs != 1:
        raise ScanError(f"holds {graphs} graphs instead of one")
    return metadata


def _entry(message: memoryview, budget: list[int]) -> tuple[str, str]:
    found = {number: value for number, value in _fields(message, budget) if isinstance(value, memoryview)}
    try:
        return bytes(found.get(1, b"")).decode(), bytes(found.get(2, b"")).decode()
    except UnicodeDecodeError:
        raise ScanError("has metadata that is no text") from None


def _look(message: memoryview, kind: str, budget: list[int]) -> None:
    inside = INSIDE[kind]
    for number, value in _fields(message, budget):
        if isinstance(value, int):
            if kind == "tensor" and number == DATA_LOCATION and value:
                raise ScanError("keeps weights in another file (external data)")
        elif kind == "tensor" and number == 13:
            raise ScanError("keeps weights in another file (external data)")
        elif kind == "node" and number == 7 and bytes(value) not in DOMAINS:
            name = bytes(value[:40]).decode(errors="replace")
            raise ScanError(f"needs custom operators, of {name}")
        elif kind == "attribute" and number in (6, 11):
            raise ScanError("holds a graph within the graph, such as a loop")
        elif number in inside:
            _look(value, inside[number], budget)


def _fields(message: memoryview, budget: list[int]) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: whole numbers as they are, all else as bytes. budget: fields still allowed."""
    place = 0
    while place < len(message):
        budget[0] -= 1
        if budget[0] < 0:
            raise ScanError(f"has more than {MOST_FIELDS} fields")
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if number == 0 or number >= 1 << 29:  # others may read its lowest bits alone
            raise ScanError("is damaged or no ONNX model")
        if wire == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == 2:
            length, place = _varint(message, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ScanError("is damaged or no ONNX model")
        if length > len(message) - place:
            raise ScanError("is damaged or no ONNX model")
        yield number, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Seven bits per byte, the lowest first; the eighth says that more follow."""
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ScanError("is damaged or no ONNX model")
