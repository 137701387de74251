"""A bundle is there or it is not: failures, full disks, kill -9."""

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from random_models import random_model, save_checkpoint

from export.folder.complete import new_folder, write_last
from training.model.crnn import Size

ROOT = Path(__file__).resolve().parents[3]


def write_bundle(final: Path, content: bytes) -> None:
    with new_folder(final) as folder:
        files = {}
        for name in ("model.onnx", "model.int8.onnx", "model.torchscript"):
            with open(folder / name, "wb", buffering=0) as file:
                for start in range(0, len(content), 1000):
                    file.write(content[start : start + 1000])
            files[name] = hashlib.sha256(content).hexdigest()
        write_last(folder, json.dumps(files))


def passes_for_a_bundle(folder: Path) -> bool:
    return folder.is_dir() and (folder / "manifest.json").exists()


def is_whole(folder: Path) -> bool:
    files = json.loads((folder / "manifest.json").read_text())
    return len(files) == 3 and all(
        hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in files.items()
    )


def test_replaces_the_older_bundle(tmp_path):
    for content in (b"old", b"new"):
        write_bundle(tmp_path / "x", content)
    assert (tmp_path / "x" / "model.onnx").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_leaves_the_older_bundle(tmp_path):
    write_bundle(tmp_path / "x", b"old")
    with pytest.raises(OSError, match="No space"), new_folder(tmp_path / "x") as folder:
        (folder / "model.onnx").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert is_whole(tmp_path / "x")


def test_two_at_once_do_not_sweep_each_other_away(tmp_path):
    with new_folder(tmp_path / "x") as one:
        (one / "file").write_text("one")
        write_bundle(tmp_path / "x", b"two")
        assert (one / "file").exists()
    assert (tmp_path / "x" / "file").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_other_hidden_folders_are_left_alone(tmp_path):
    names = [".git", ".x.partial", ".x.partial-notours!"]
    for name in names:
        (tmp_path / name).mkdir()
    write_bundle(tmp_path / "x", b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "x"])


def test_kill_9_at_random_moments(tmp_path):
    """40 writers, each killed within its first replacements of the same bundle."""
    chance = random.Random(0)
    for _ in range(40):
        writer = os.fork()
        if writer == 0:
            try:
                for number in range(1000):
                    write_bundle(tmp_path / "x", bytes([number % 256]) * 100_000)
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        for folder in tmp_path.iterdir():
            assert not passes_for_a_bundle(folder) or is_whole(folder), folder.name
            assert folder.name == "x" or folder.name.startswith(".x.partial-")
    write_bundle(tmp_path / "x", b"last")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_kill_9_of_a_real_export(tmp_path):
    """Killed while it verifies: the model files are written, and nothing passes for a bundle."""
    path = save_checkpoint(tmp_path / "small", random_model(Size(kernel=(15, 5), hidden=21)), ["word"])
    command = [sys.executable, "-m", "export", str(path), "--out", str(tmp_path / "dist")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "verifying" in line:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "dist").iterdir()
    assert left.name.startswith(".small.partial-")
    assert (left / "model.onnx").exists()
    assert not passes_for_a_bundle(left)
    write_bundle(tmp_path / "dist" / "other", b"content")
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["other"]
