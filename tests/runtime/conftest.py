"""A tiny bundle that obeys the contract, made without training or export: its score follows the loudness."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).resolve().parents[2]

HOP = 1280
# level' = half of (level + energy of tail and audio); score = sigmoid(100 level' - 5)
GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
loudness (float[1,1280] audio, float[1,1] level, float[1,240] tail)
  => (float[1,1] score, float[1,1] level_next, float[1,240] tail_next)
  <float[1] half = {0.5}, float[1] gain = {100.0}, float[1] offset = {5.0},
   int64[1] start = {1040}, int64[1] end = {1280}, int64[1] axis = {1}>
{
  window = Concat<axis = 1>(tail, audio)
  square = Mul(window, window)
  energy = ReduceMean(square, axis)
  sum = Add(level, energy)
  level_next = Mul(sum, half)
  scaled = Mul(level_next, gain)
  logit = Sub(scaled, offset)
  score = Sigmoid(logit)
  tail_next = Slice(audio, start, end, axis)
}
"""
MANIFEST = {
    "earshot_version": "1", "name": "loud-test", "sample_rate": 16000, "hop_samples": HOP, "keywords": ["loud"],
    "threshold": [0.5], "refractory_hops": 12, "default_model": "model.int8.onnx",
    "states": [{"name": "level", "shape": [1, 1]}, {"name": "tail", "shape": [1, 240]}], "measured": {},
}


def write_bundle(
    folder: Path, graph: str = GRAPH, metadata: dict[str, str | None] | None = None, **fields: Any
) -> Path:
    """Write a bundle whose SHA-256 figures are right, however wrong its graph, its metadata or manifest fields are."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {**MANIFEST, **fields}
    model = onnx.parser.parse_model(graph)
    props = {"earshot_version": str(manifest["earshot_version"])}
    for key in ("sample_rate", "hop_samples", "keywords", "threshold", "refractory_hops"):
        props[key] = json.dumps(manifest[key])
    for key, value in (metadata or {}).items():
        props.pop(key, None)
        if value is not None:
            props[key] = value
    onnx.helper.set_model_props(model, props)
    content = {"model.onnx": model.SerializeToString(), "model.int8.onnx": model.SerializeToString(),
               "model.torchscript": b"not for the device", "report.md": b"# report\n"}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    manifest.setdefault("files", {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
                                  for name, data in content.items()})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    return lambda **changes: write_bundle(tmp_path / "bundle", **changes)


@pytest.fixture
def bundle(make_bundle: Callable[..., Path]) -> Path:
    return make_bundle()


@pytest.fixture
def graph() -> str:
    return GRAPH


@pytest.fixture
def noise() -> np.ndarray:
    """40 hops of noise whose level goes up and down, (40, 1280) float32."""
    random = np.random.default_rng(7)
    swell = 0.25 + 0.25 * np.sin(np.arange(40))[:, None]
    return (swell * random.standard_normal((40, HOP))).astype(np.float32)


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start listen.py as a script, in a folder that is not the repository; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str | Path, script: Path = ROOT / "runtime" / "listen.py", **options: Any) -> Any:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                   "cwd": tmp_path, "env": dict(os.environ)} | options
        options["env"].pop("PYTHONUNBUFFERED", None)  # it would hide a forgotten flush
        started.append(subprocess.Popen([sys.executable, str(script), *map(str, arguments)], **options))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


ALSA = """
pcm.!default { type pulse }
ctl.!default { type pulse }
"""


@pytest.fixture
def pulse(pulse_server: subprocess.Popen[bytes]) -> dict[str, str]:
    """Environment of whoever shall play into or record from that server."""
    return pulse_server.environment  # type: ignore[attr-defined]


@pytest.fixture
def pulse_server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A PulseAudio of its own, whose null sink `mic` is heard by the default ALSA device, and its `environment`."""
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "home").mkdir()
    configuration = tmp_path / "asound.conf"
    configuration.write_text("</usr/share/alsa/alsa.conf>\n" + ALSA)
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run"),
                   "PULSE_RUNTIME_PATH": str(tmp_path / "run"), "PULSE_SERVER": f"unix:{tmp_path / 'run' / 'native'}",
                   "PULSE_SOURCE": "mic.monitor", "ALSA_CONFIG_PATH": str(configuration)}
    server = subprocess.Popen(
        ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--disable-shm=yes",
         "-L", f"module-native-protocol-unix socket={tmp_path / 'run' / 'native'} auth-anonymous=1",
         "-L", "module-null-sink sink_name=mic rate=48000"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            if subprocess.run(["pactl", "info"], env=environment, capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        else:
            pytest.fail("pulseaudio did not start")
        server.environment = environment  # type: ignore[attr-defined]
        yield server
    finally:
        server.kill()  # it may be stopped
        server.wait()
