"""Bundles made by somebody who means harm. Each is refused, in one line and before onnxruntime sees the model; and each
does its harm when the check that refuses it is taken out of the engine's source, so no check here is for show.

SHA-256 and sizes in the manifest are right in all but the first: whoever makes a bundle can compute them.
"""

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import toy

from runtime import engine as runtime_engine
from runtime.engine import BundleError, Engine
from runtime.onnx_scan import ScanError, scan

ROOT = Path(__file__).resolve().parents[2]
MODEL = "model.int8.onnx"
SILENCE = np.zeros(1280, np.float32)


class Attack(NamedTuple):
    """build: makes the bundle. refusal: part of the message. out: what is taken out of the source, and put in instead.
    harm: true when the attack succeeded against the engine so weakened; it gets the Engine.
    """

    build: Callable[[Path], None]
    refusal: str
    out: list[tuple[str, str]]
    harm: Callable[[Any], bool] = lambda engine: True  # to be loaded at all
    before_loading: bool = True


def put(folder: Path, name: str, content: bytes, entry: str | None = None, **fields: Any) -> None:
    """Write a file and enter it into the manifest, perhaps under another name."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][entry or name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest | fields))


def rewrite(folder: Path, **fields: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | fields))


def change_model(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load_from_string((folder / MODEL).read_bytes())
    change(model)
    put(folder, MODEL, model.SerializeToString())


def fires(engine: Any) -> bool:
    return float(engine.step(SILENCE)[0]) > 0.5


# Files


def tampered(folder: Path) -> None:
    data = (folder / MODEL).read_bytes()
    offset = np.float32(5.0).tobytes()
    assert data.count(offset) == 1
    (folder / MODEL).write_bytes(data.replace(offset, np.float32(-5.0).tobytes()))


def bomb(folder: Path) -> None:
    """What a gigabyte zipped to one megabyte looks like when it is unpacked; 8 MiB will do."""
    path = folder / "manifest.json"
    path.write_text(path.read_text() + " " * (8 << 20))


def deep(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[:-1] + ', "deep": ' + "[" * 200_000 + "]" * 200_000 + "}")


def outside(folder: Path) -> bytes:
    """A model beside the bundle that fires always."""
    tampered(folder)
    content = (folder / MODEL).read_bytes()
    (folder.parent / "outside.onnx").write_bytes(content)
    return content


def leads_to(name: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        content, path = outside(folder), name.format(folder.parent)
        if path.startswith("sub/"):
            (folder / "sub").symlink_to(folder.parent, target_is_directory=True)
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        rewrite(folder, files={path: entry}, default_model=path)

    return build


def linked(folder: Path) -> None:
    content = outside(folder)
    put(folder, MODEL, content)
    (folder / MODEL).unlink()
    (folder / MODEL).symlink_to(folder.parent / "outside.onnx")


def linked_manifest(folder: Path) -> None:
    (folder / "manifest.json").rename(folder.parent / "elsewhere.json")
    (folder / "manifest.json").symlink_to(folder.parent / "elsewhere.json")


def too_many(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    more = {f"f{number}": manifest["files"][MODEL] for number in range(5000)}
    rewrite(folder, files=manifest["files"] | more)


def twice(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text('{"default_model": "innocent.onnx", ' + path.read_text()[1:])


def sparse(folder: Path) -> None:
    os.truncate(folder / "report.md", 65 << 20)
    content = bytes(65 << 20)
    content = b"# report\n" + content[9:]
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["report.md"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    rewrite(folder, files=manifest["files"])


# Manifest and metadata


def nan_threshold(folder: Path) -> None:
    toy.write_bundle(folder, threshold=[float("nan")])


def commanding_keyword(folder: Path) -> None:
    toy.write_bundle(folder, keywords=["\x1b]0;owned\x07"])


def low_threshold_in_manifest(folder: Path) -> None:
    rewrite(folder, threshold=[0.001])


def metadata_twice(folder: Path) -> None:
    change_model(folder, lambda model: model.metadata_props.insert(
        0, onnx.StringStringEntryProto(key="threshold", value="[0.001]")))


def states_of_another(folder: Path) -> None:
    rewrite(folder, states=[{"name": "level", "shape": [1, 1]}, {"name": "tail", "shape": [1, 480]}])


# Graphs


def borrow(folder: Path, location: str) -> onnx.ModelProto:
    """A model that adds to the audio what lies in another file: ones, or whatever secret a file holds."""
    (folder.parent / "secret").write_bytes(np.ones(1520, np.float32).tobytes())
    graph = toy.GRAPH.replace("square = Mul(window, window)", "more = Add(window, weight)\n square = Mul(more, more)")
    toy.write_bundle(folder, graph=graph.replace("float[1] half", "float[1] weight = {1}, float[1] half"))
    model = onnx.load_from_string((folder / MODEL).read_bytes())
    (weight,) = [t for t in model.graph.initializer if t.name == "weight"]
    weight.CopyFrom(onnx.TensorProto(name="weight", data_type=1, dims=[1, 1520], data_location=1))
    weight.external_data.add(key="location", value=location.format(folder.parent))
    return model


def external(folder: Path, location: str = "secret") -> None:
    put(folder, MODEL, borrow(folder, location).SerializeToString())


def external_in_attribute(folder: Path) -> None:
    """The same in a Constant's attribute, where who looks at initializers alone does not look."""
    model = borrow(folder, "secret")
    (weight,) = [t for t in model.graph.initializer if t.name == "weight"]
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["weight"], value=weight))
    model.graph.initializer.remove(weight)
    put(folder, MODEL, model.SerializeToString())


def custom_function(folder: Path, domain: str = "evil") -> None:
    """An operator of somebody's own that onnxruntime runs, as its body is in the file."""

    def change(model: onnx.ModelProto) -> None:
        body = [onnx.helper.make_node("Sigmoid", ["x"], ["low"]), onnx.helper.make_node("Exp", ["low"], ["y"])]
        imports = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(domain, 1)]
        model.functions.append(onnx.helper.make_function(domain, "Score", ["x"], ["y"], body, imports[:1]))
        model.opset_import.append(imports[1])
        (score,) = [node for node in model.graph.node if node.op_type == "Sigmoid"]
        score.op_type, score.domain = "Score", domain

    change_model(folder, change)


def custom_function_of_a_known_domain(folder: Path) -> None:
    custom_function(folder, "com.microsoft")


def graph_within(folder: Path) -> None:
    loop = toy.GRAPH.replace("score = Sigmoid(logit)", """
        score = Loop<body = turn (int64 i, bool on, float[1,1] old) => (bool go, float[1,1] new)
            { go = Identity(on)  new = Sigmoid(old) }>(turns, yes, logit)""")
    loop = loop.replace("int64[1] axis = {1}", "int64[1] axis = {1}, int64 turns = {3}, bool yes = {1}")
    toy.write_bundle(folder, graph=loop)


def big_state(folder: Path) -> None:
    graph = toy.GRAPH.replace("float[1,240] tail)", "float[1,240] tail, float[1,5000000] big)")
    graph = graph.replace("float[1,240] tail_next)", "float[1,240] tail_next, float[1,5000000] big_next)")
    graph = graph.replace("score = Sig", "big_next = Identity(big)\n score = Sig")
    toy.write_bundle(folder, graph=graph, states=[*toy.MANIFEST["states"], {"name": "big", "shape": [1, 5_000_000]}])


def big_result(folder: Path) -> None:
    """300 MB out of a file of a thousand bytes."""
    graph = toy.GRAPH.replace("score = Sigmoid(logit)", """all = Expand(logit, wide)
        most = ReduceMax<keepdims = 1>(all, axis)
        score = Sigmoid(most)""")
    constants = "int64[1] axis = {1}, int64[2] wide = {1, 75000000}"
    toy.write_bundle(folder, graph=graph.replace("int64[1] axis = {1}", constants))


def lying_shape(folder: Path) -> None:
    """Declares a score of one keyword, and gives as many as the first sample says: fails at the first step."""
    graph = toy.GRAPH.replace("score = Sigmoid(logit)", """one = Slice(tail_next, zero, first, axis)
        two = Add(one, twice)
        shape = Cast<to = 7>(two)
        flat = Reshape(shape, first)
        both = Concat<axis = 0>(first, flat)
        score = Expand(logit, both)""")
    constants = "int64[1] axis = {1}, int64[1] zero = {0}, int64[1] first = {1}, float[1] twice = {2.0}"
    toy.write_bundle(folder, graph=graph.replace("int64[1] axis = {1}", constants))


def never_a_number(folder: Path) -> None:
    """√ of what is below zero: a detector that loads and hears nothing."""
    toy.write_bundle(folder, graph=toy.GRAPH.replace("Sigmoid(logit)", "Sqrt(logit)"))


def other_format(folder: Path) -> None:
    """onnxruntime's own format, told from ONNX by its first bytes."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder.parent / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession((folder / MODEL).read_bytes(), options, providers=["CPUExecutionProvider"])
    put(folder, MODEL, (folder.parent / "model.ort").read_bytes())


def two_graphs(folder: Path) -> None:
    """A second graph of the same file is added to the first by protobuf, and is all that a careless reader shows."""
    empty = onnx.ModelProto(graph=onnx.GraphProto(doc_string="innocent"))
    put(folder, MODEL, (folder / MODEL).read_bytes() + empty.SerializeToString())


SCAN = ("        metadata = scan(content)\n", """        import onnx
        metadata = {p.key: p.value for p in onnx.load_from_string(content).metadata_props}
""")
EXTERNAL = [
    SCAN,
    ('    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)\n', ""),
]
LIMIT = ('    options.add_session_config_entry("session.use_env_allocators", "1")\n', "")
NAME = ('check(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name) is not None and name != MANIFEST', "check(True")
LINKS = [('getattr(os, "O_NOFOLLOW", 0)', "0"), ("os.lstat(path), largest", "os.stat(path), largest")]
FUNCTIONS = ("        if number in (20, 25):\n", "        if number == 20:\n")
TRY = ("        self._try()\n", "")
TOLD = ("        if told != manifest[key]:\n", "        if False:\n")

ATTACKS = {
    "tampered": Attack(tampered, "its SHA-256 is not the one in", [
        ('_sha256(found) != entry["sha256"]', "False")], fires),
    "manifest as a bomb": Attack(bomb, "more than the 1048576 allowed", [
        ("    if info.st_size > largest:\n", "    if False:\n"), ("file.read(largest + 1)", "file.read()")]),
    "manifest too deep": Attack(deep, "not JSON", [
        ("    except (ValueError, RecursionError):\n        _refuse(path, \"not JSON", "    except ValueError:\n"
         "        _refuse(path, \"not JSON")], lambda engine: False),
    "path upwards": Attack(leads_to("../outside.onnx"), "not a plain file name", [NAME], fires),
    "absolute path": Attack(leads_to("{}/outside.onnx"), "not a plain file name", [NAME], fires),
    "linked folder": Attack(leads_to("sub/outside.onnx"), "not a plain file name", [NAME], fires),
    "linked model": Attack(linked, "not a plain file", LINKS, fires),
    "linked manifest": Attack(linked_manifest, "not a plain file", LINKS),
    "thousands of files": Attack(too_many, "files is not a table of files", [
        ("1 <= len(files) <= MOST_FILES", "True")]),
    "a key twice": Attack(twice, 'says "default_model" twice', [
        (", object_pairs_hook=functools.partial(_object, path)", "")]),
    "large file": Attack(sparse, "files has no good bytes", [("LARGEST_FILE = 64 << 20", "LARGEST_FILE = 66 << 20")]),
    "threshold NaN": Attack(nan_threshold, "threshold is not one number in 0…1", [
        ("type(t) in (int, float) and 0 < t <= 1 for t", "type(t) in (int, float) for t"), TOLD],
        lambda engine: np.isnan(engine.thresholds[0])),
    "keyword that commands the terminal": Attack(commanding_keyword, "keywords is not a list of names", [
        (" and k.isprintable() for k in", " for k in")], lambda engine: "\x1b" in engine.keywords[0]),
    "threshold of the manifest alone": Attack(low_threshold_in_manifest, "threshold in its metadata is not the one", [
        TOLD], lambda engine: engine.thresholds[0] == 0.001),
    "metadata twice": Attack(metadata_twice, "has a key twice in its metadata", [
        ("            if key in metadata:\n", "            if False:\n")]),
    "states of another": Attack(states_of_another, "its states are not those in", [
        ("    check(listed == [(state.name, state.shape) for state in states]", "    check(True")],
        before_loading=False),
    "weights elsewhere": Attack(external, "(external data)", EXTERNAL, fires),
    "weights elsewhere, of a constant": Attack(external_in_attribute, "(external data)", EXTERNAL, fires),
    "custom operator": Attack(custom_function, "needs custom operators, of evil", [
        ("bytes(value) not in DOMAINS", "False"), FUNCTIONS], fires),
    "custom operator of a known domain": Attack(custom_function_of_a_known_domain, "holds functions", [
        FUNCTIONS], fires),
    "graph within the graph": Attack(graph_within, "holds a graph within the graph", [
        ("kind == \"attribute\" and number in (6, 11)", "False")]),
    "huge state": Attack(big_state, "its states need more than", [
        ("LARGEST_STATE = 16 << 20", "LARGEST_STATE = 16 << 30")],
        lambda engine: engine._states[0][2].nbytes == 20_000_000, before_loading=False),
    "huge result": Attack(big_result, "cannot be run", [LIMIT], lambda engine: engine.step(SILENCE)[0] < 0.5, False),
    "shape that lies": Attack(lying_shape, "cannot be run", [TRY], before_loading=False),
    "score that is never a number": Attack(never_a_number, "its score of silence is no number", [
        ("        if self.nan_resets:\n", "        if False:\n")], before_loading=False),
    "another format": Attack(other_format, "is damaged or no ONNX model", [
        ("        metadata = scan(content)\n", "        metadata = {}\n"),
        ("        if key not in metadata:\n", "        if False:\n"),
        ('json.loads(metadata[key])', "manifest[key]"),
        ('metadata[key] if key == "earshot_version"', 'manifest[key] if key == "earshot_version"'),
        ('    options.add_session_config_entry("session.load_model_format", "ONNX")\n', "")]),
    "two graphs": Attack(two_graphs, "holds 2 graphs", [("    if graphs != 1:\n", "    if False:\n")]),
}


@pytest.fixture
def attacked(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = toy.write_bundle(tmp_path / "bundle")
    ATTACKS[request.param].build(folder)
    monkeypatch.chdir(tmp_path)  # where onnxruntime looks for weights of a graph in memory
    return folder


def refusal(folder: str | Path) -> str:
    with pytest.raises(BundleError) as caught:
        Engine(folder)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 500
    return message


@pytest.mark.parametrize(("attacked", "attack"), ATTACKS.items(), ids=list(ATTACKS), indirect=["attacked"])
def test_refused_before_anything_is_loaded(attacked, attack, monkeypatch):
    loaded = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(runtime_engine.ort, "InferenceSession", lambda *a, **k: loaded.append(a) or session(*a, **k))
    assert attack.refusal in refusal(attacked)
    assert not (loaded and attack.before_loading)


@pytest.mark.parametrize(("attacked", "attack"), ATTACKS.items(), ids=list(ATTACKS), indirect=["attacked"])
def test_succeeds_without_the_check(attacked, attack, weakened):
    weak = weakened(*attack.out)
    try:
        assert attack.harm(weak.Engine(attacked))
    except RecursionError:
        assert attack.build is deep  # which does its harm by getting out


def test_an_untouched_bundle_is_taken_by_a_weakened_engine_and_the_real_one(tmp_path, weakened):
    folder = toy.write_bundle(tmp_path / "bundle")
    for engine in (Engine(folder), weakened().Engine(folder)):
        assert not fires(engine)


# Paths that hold up or lead away only between two looks at them


def swap(monkeypatch: pytest.MonkeyPatch, module: Any, ordinary: Path) -> None:
    """What lstat sees is an ordinary file; by the time it is opened it is something else."""
    seen = os.lstat(ordinary)
    monkeypatch.setattr(module.os, "lstat", lambda path: seen)


def within(seconds: float, act: Callable[[], Any]) -> bool:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


@pytest.mark.parametrize("name", ["manifest.json", MODEL])
def test_a_pipe_does_not_hold_it_up(tmp_path, monkeypatch, weakened, name):
    folder = toy.write_bundle(tmp_path / "bundle")
    content = (folder / name).read_bytes()
    (tmp_path / "ordinary").write_bytes(content)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert within(5, lambda: refusal(folder))
    weak = weakened(('getattr(os, "O_NONBLOCK", 0)', "0"))
    swap(monkeypatch, runtime_engine, tmp_path / "ordinary")  # os is one for both
    assert within(5, lambda: refusal(folder))
    assert "not a plain file" in refusal(folder)
    stuck = threading.Thread(target=lambda: pytest.raises(weak.BundleError, weak.Engine, folder), daemon=True)
    stuck.start()
    stuck.join(0.5)
    assert stuck.is_alive()
    with open(folder / name, "wb"):  # sets it free
        pass
    stuck.join(5)


def test_a_link_put_there_in_between(tmp_path, monkeypatch, weakened):
    folder = toy.write_bundle(tmp_path / "bundle")
    linked(folder)
    swap(monkeypatch, runtime_engine, tmp_path / "outside.onnx")
    assert "cannot be read" in refusal(folder)
    assert fires(weakened(('getattr(os, "O_NOFOLLOW", 0)', "0")).Engine(folder))


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/tty", "/dev/full"])
def test_a_device(tmp_path, device):
    folder = toy.write_bundle(tmp_path / "bundle")
    for name in ("manifest.json", MODEL):
        original = (folder / name).read_bytes()
        (folder / name).unlink()
        try:
            info = os.stat(device)
            os.mknod(folder / name, stat.S_IFCHR | 0o666, info.st_rdev)
        except OSError:
            (folder / name).symlink_to(device)
        assert within(5, lambda: refusal(folder))
        assert "not a plain file" in refusal(folder)
        (folder / name).unlink()
        (folder / name).write_bytes(original)


# Refused by onnxruntime alone, so there is no check of ours to take out


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_an_operator_nobody_has(tmp_path, domain):
    def change(model: onnx.ModelProto) -> None:
        (score,) = [node for node in model.graph.node if node.op_type == "Sigmoid"]
        score.op_type, score.domain = "Evil\x1b[31m\u202e", domain

    folder = toy.write_bundle(tmp_path / "bundle")
    change_model(folder, change)
    assert "cannot load it" in refusal(folder)


def test_a_domain_nobody_has(tmp_path):
    folder = toy.write_bundle(tmp_path / "bundle", graph=toy.GRAPH.replace("Sigmoid(logit)", "evil.Sigmoid(logit)"))
    assert "needs custom operators, of evil" in refusal(folder)


def test_a_field_that_others_may_read_as_another():
    # 2^29 + 14 in five bytes: protobuf in C++ keeps 32 bits of it, and reads field 14
    tensor = bytes([0b1111_0000, 0x80, 0x80, 0x80, 0x10, 1])
    graph = bytes([5 << 3 | 2, len(tensor)]) + tensor
    with pytest.raises(ScanError, match="damaged"):
        scan(bytes([7 << 3 | 2, len(graph)]) + graph)


@pytest.mark.parametrize("dims", [[1 << 40], [1 << 62, 4], [-1], [0], [1 << 20, 1 << 20]])
def test_a_tensor_that_declares_what_it_does_not_hold(tmp_path, dims):
    def change(model: onnx.ModelProto) -> None:
        (offset,) = [t for t in model.graph.initializer if t.name == "offset"]
        del offset.dims[:]
        offset.dims.extend(dims)

    folder = toy.write_bundle(tmp_path / "bundle")
    change_model(folder, change)
    assert MODEL in refusal(folder)


@pytest.mark.parametrize("location", ["../secret", "{}/secret", "*/_ORT_MEM_ADDR_/*"])
def test_weights_that_onnxruntime_would_not_follow_either(tmp_path, location):
    """From 1.31 on; the scan does not depend on it."""
    external(tmp_path / "bundle", location)
    assert "(external data)" in refusal(tmp_path / "bundle")


@pytest.mark.parametrize("folder", ["a\0b", "", "\n", "/proc/self/mem", "x" * 5000])
def test_a_folder_that_is_none(folder):
    assert "manifest.json: " in refusal(folder)


def test_a_million_fields_do_not_hold_it_up(tmp_path):
    folder = toy.write_bundle(tmp_path / "bundle")
    put(folder, MODEL, (folder / MODEL).read_bytes() + b"\x28\x01" * 5_000_000)  # model_version, again and again
    began = time.monotonic()
    assert "has more than 200000 fields" in refusal(folder)
    assert time.monotonic() - began < 20


def test_listen_tells_it_in_one_line_and_loads_nothing(tmp_path):
    folder = toy.write_bundle(tmp_path / "bundle")
    custom_function(folder)
    run = subprocess.run([sys.executable, ROOT / "runtime" / "listen.py", folder, "--wav", folder / "report.md"],
                         capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 2 and not run.stdout
    assert run.stderr.count("\n") == 1 and "needs custom operators, of evil" in run.stderr
