"""What attacks on bundles share: how a bundle is changed, and how the engine answers."""

import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest

from runtime.bundle.engine import Engine
from runtime.errors import BundleError

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


def refusal(folder: str | Path) -> str:
    with pytest.raises(BundleError) as caught:
        Engine(folder)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 500
    return message


def refused(attack: Attack, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the message it should be, and before onnxruntime got it."""
    loaded = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: loaded.append(a) or session(*a, **k))
    assert attack.refusal in refusal(folder)
    assert not (loaded and attack.before_loading)


# Loads a bundle and lets it hear silence and a loud sound; says how far it came and the memory it took in MB.
HEARS = """
import importlib, sys
import numpy as np
engine = importlib.import_module(sys.argv[1] + ".bundle.engine")
try:
    model = engine.Engine(sys.argv[2])
    print("loaded", flush=True)
    for level, name in ((0, "silence"), (1, "sound")):
        model.step(np.full(model.hop_samples, level, np.float32))
        print(name, flush=True)
except Exception as error:
    print(type(error).__name__)
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1024)
"""


class Heard(NamedTuple):
    code: int
    said: list[str]  # how far it came
    megabytes: int  # 0 when it was ended


def hear(runtime: Path, bundle: Path, cpu: int = 20, memory: int = 2 << 30) -> Heard:
    """What becomes of a process that uses a bundle. runtime: a folder such as runtime/; cpu: seconds; memory: bytes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    done = subprocess.run([sys.executable, "-c", HEARS, runtime.name, bundle], cwd=runtime.parent, preexec_fn=limit,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    said = done.stdout.split()
    return Heard(done.returncode, said, 0 if done.returncode else int(said.pop()))
