"""Bundles with random damage, their SHA-256 made right again: the engine takes them or raises BundleError."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import toy
from fuzz import fuzz, in_batches
from hypothesis import strategies as st

from runtime.bundle.engine import Engine
from runtime.bundle.onnx_scan import FIELDS, REFUSED, ScanError, scan
from runtime.errors import BundleError

MODEL = "model.int8.onnx"
ODD = st.sampled_from([
    None, True, False, 0, 1, -1, 2, 12, 1280, 16000, 16000.0, 1e400, float("nan"), 10**400, 2**63, 0.5, "", "1", "loud",
    "model.onnx", MODEL, "../x", "a\0b", "\ud800", [], {}, [[]], [0.5], [None], ["loud"], [1, 240], {"a": 1},
])
JSON = st.recursive(
    ODD | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=5)
PIECES = st.binary(max_size=4) | st.sampled_from(
    [b"\xff" * 9 + b"\x01", b"\x80" * 9, b"\x00", b"\x7f", b"\xff", b"\x62\x00", b"\x6a\x02\x0a\x00",
     b'"', b"[", b"{"])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(copy[path[0]], path[1:], new)
    return copy


def damage(draw: st.DrawFn, data: bytes) -> bytes:
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        gone = draw(st.sampled_from([0, 0, 1, 1, 1, 2, 4, 50, 100_000]))
        data = data[:place] + draw(PIECES) + data[place + gone :]
    return data


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_bundle(tmp_path_factory.mktemp("fuzz") / "bundle")


def write(folder: Path, manifest: Any, model: bytes) -> None:
    (folder / MODEL).write_bytes(model)
    if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict):
        entry = {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}
        manifest = {**manifest, "files": {**manifest["files"], MODEL: entry}}
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)


def load(folder: Path) -> bool:
    """Whether the engine takes it. Whatever else than BundleError it raises is the test's failure."""
    try:
        engine = Engine(folder)
    except BundleError as error:
        message = str(error)
        assert message.isprintable() and 0 < len(message) <= 500, message
        return False
    for level in (0.0, 0.5):
        scores = engine.step(np.full(engine.hop_samples, level, np.float32))
        assert scores.shape == (len(engine.keywords),) and np.isfinite(scores).all()
    return True


@in_batches
def test_fuzzed_bundles(good, batch, inputs):
    original = json.loads((good / "manifest.json").read_text())
    text, model = (good / "manifest.json").read_bytes(), (good / "model.onnx").read_bytes()
    spots = places(original)
    outcomes: set[str] = set()

    def taken_or_refused(data: st.DataObject) -> None:
        draw = data.draw
        kind = draw(st.sampled_from(["manifest", "text", "model", "model", "both"]))
        manifest: Any = original
        if kind in ("manifest", "both"):
            for _ in range(draw(st.integers(1, 3))):
                path = draw(st.sampled_from(spots))
                try:
                    manifest = put(manifest, path, draw(JSON))
                except (TypeError, KeyError, IndexError):  # went with an earlier change
                    continue
        write(good, damage(draw, text) if kind == "text" else manifest,
              damage(draw, model) if kind in ("model", "both") else model)
        outcomes.add("taken" if load(good) else "refused")

    try:
        fuzz(taken_or_refused, st.data(), batch, inputs)
    finally:
        write(good, original, model)
    assert load(good)
    assert outcomes == {"taken", "refused"}  # or it would say little


@in_batches
def test_fuzzed_models(good, batch, inputs):
    model = (good / "model.onnx").read_bytes()

    def read_or_refused(data: st.DataObject) -> None:
        content = data.draw(st.binary(max_size=60)) if data.draw(st.booleans()) else damage(data.draw, model)
        with contextlib.suppress(ScanError):
            scan(content)

    fuzz(read_or_refused, st.data(), batch, inputs)


def test_fields_are_those_of_the_format():
    messages = {"model": "ModelProto", "opset": "OperatorSetIdProto", "entry": "StringStringEntryProto",
                "graph": "GraphProto", "node": "NodeProto", "attribute": "AttributeProto", "tensor": "TensorProto"}
    assert set(FIELDS) == set(messages)
    for kind, fields in FIELDS.items():
        known = getattr(onnx, messages[kind]).DESCRIPTOR.fields_by_number
        for number, (name, form) in fields.items():
            field = known[number]
            wire = {field.TYPE_FLOAT: "5", field.TYPE_INT32: "0", field.TYPE_INT64: "0", field.TYPE_ENUM: "0"}
            several = field.is_repeated or name == "graph"  # of which there must be one, and more are told
            assert field.name == name and wire.get(field.type, "2") in form and several == ("*" in form), (kind, name)
    for kind, number in REFUSED:
        assert number in getattr(onnx, messages[kind]).DESCRIPTOR.fields_by_number and number not in FIELDS[kind]
