"""Bundles made by somebody who means harm. Each is refused, in one line and before onnxruntime sees the model; and each
does its harm when the check that refuses it is taken out of the engine's source, so no check here is for show.

SHA-256 and sizes in the manifest are right in all but the first: whoever makes a bundle can compute them.
"""

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import on_files
import on_graphs
import onnx
import pytest
import toy
from attack import MODEL, ROOT, change_model, fires, put, refusal, refused

from runtime.bundle import engine as runtime_engine
from runtime.bundle.engine import Engine
from runtime.bundle.onnx_scan import ScanError, scan

ATTACKS = on_files.ATTACKS | on_graphs.ATTACKS


@pytest.fixture
def attacked(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = toy.write_bundle(tmp_path / "bundle")
    ATTACKS[request.param].build(folder)
    monkeypatch.chdir(tmp_path)  # where onnxruntime looks for weights of a graph in memory
    return folder


@pytest.mark.parametrize(("attacked", "attack"), ATTACKS.items(), ids=list(ATTACKS), indirect=["attacked"])
def test_refused_before_anything_is_loaded(attacked, attack, monkeypatch):
    refused(attack, attacked, monkeypatch)


@pytest.mark.parametrize(("attacked", "attack"), ATTACKS.items(), ids=list(ATTACKS), indirect=["attacked"])
def test_succeeds_without_the_check(attacked, attack, weakened):
    weak = weakened(*attack.out)
    try:
        assert attack.harm(weak.Engine(attacked))
    except RecursionError:
        assert attack.build is on_files.deep  # which does its harm by getting out


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
    weak = weakened(('getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)', 'getattr(os, "O_NOFOLLOW", 0)'))
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
    on_files.linked(folder)
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


# Refused by onnxruntime too, so taking our check out would show nothing


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_an_operator_nobody_has(tmp_path, domain):
    def change(model: onnx.ModelProto) -> None:
        (score,) = [node for node in model.graph.node if node.op_type == "Sigmoid"]
        score.op_type, score.domain = "Evil\x1b[31m\u202e", domain

    folder = toy.write_bundle(tmp_path / "bundle")
    change_model(folder, change)
    assert f"needs {'custom operators' if domain else 'the operator Evil?[31m?'}" in refusal(folder)


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
    on_graphs.external(tmp_path / "bundle", location)
    assert "(external data)" in refusal(tmp_path / "bundle")


@pytest.mark.parametrize("folder", ["a\0b", "", "\n", "/proc/self/mem", "x" * 5000])
def test_a_folder_that_is_none(folder):
    assert "manifest.json: " in refusal(folder)


def test_a_million_fields_do_not_hold_it_up(tmp_path):
    folder = toy.write_bundle(tmp_path / "bundle")
    put(folder, MODEL, (folder / MODEL).read_bytes() + b"\x72\x00" * 5_000_000)  # metadata_props, again and again
    began = time.monotonic()
    assert "has more than 50000 fields" in refusal(folder)
    assert time.monotonic() - began < 20


def test_listen_tells_it_in_one_line_and_loads_nothing(tmp_path):
    folder = toy.write_bundle(tmp_path / "bundle")
    on_graphs.custom_function(folder)
    run = subprocess.run([sys.executable, ROOT / "runtime" / "listen.py", folder, "--wav", folder / "report.md"],
                         capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 2 and not run.stdout
    assert run.stderr.count("\n") == 1 and "holds functions" in run.stderr
