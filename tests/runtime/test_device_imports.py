"""What the device needs: numpy and onnxruntime, and nothing else for WAV and stdin."""

import ast
import hashlib
import json
import shutil
import subprocess
import sys
import venv
import wave
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "runtime"
REQUIREMENTS = RUNTIME / "requirements.txt"
ALWAYS = {"numpy", "onnxruntime", "runtime"}
LAZILY = {"pyaudio", "soundfile", "soxr"}

# Runs listen.py as the device does, and leaves the names of all that was imported in a file.
WATCHED = """
import json, runpy, sys
report, script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
try:
    runpy.run_path(script, run_name="__main__")
finally:
    with open(report, "w") as file:
        json.dump(sorted(sys.modules), file)
"""


def imports(path: Path) -> list[tuple[str, bool]]:
    """Top-level names of the packages a file imports, and whether that happens inside a function."""
    found = []

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name.split(".")[0], lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.append(("runtime" if node.level else (node.module or "").split(".")[0], lazy))
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text()), False)
    return found


def test_every_import_statement_is_one_the_device_can_follow():
    files = sorted(RUNTIME.rglob("*.py"))
    assert {"engine.py", "detector.py", "hops.py", "listen.py"} <= {file.name for file in files}
    for file in files:
        for name, lazy in imports(file):
            allowed = name in sys.stdlib_module_names or name in ALWAYS or (lazy and name in LAZILY)
            assert allowed, f"{file.name} imports {name}{'' if lazy else ' when it is loaded'}"


@pytest.fixture(scope="session")
def device_python() -> Path:
    """Python of an environment that holds runtime/requirements.txt alone: `.venv-device`, kept for the next time."""
    folder = ROOT / ".venv-device"
    stamp = folder / "made-from"
    recipe = hashlib.sha256(sys.version.encode() + REQUIREMENTS.read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != recipe:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        stamp.write_text(recipe)
    return folder / "bin" / "python"


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """listen.py in a folder with nothing but the runtime."""
    shutil.copytree(RUNTIME, tmp_path / "device" / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "device" / "runtime" / "listen.py"


@pytest.fixture
def write_loud(tmp_path: Path):
    def write(rate: int) -> Path:
        with wave.open(str(tmp_path / f"{rate}.wav"), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes((16000 * np.sin(np.arange(2 * rate))).astype("<i2").tobytes())
        return tmp_path / f"{rate}.wav"

    return write


@pytest.mark.parametrize("source", ["wav", "stdin"])
def test_listening_imports_nothing_else(device_python, device, bundle, write_loud, tmp_path, source):
    loud, report = write_loud(16000), tmp_path / "modules.json"
    arguments = ["--wav", loud] if source == "wav" else ["--stdin"]
    with wave.open(str(loud)) as file:
        sound = file.readframes(file.getnframes())
    run = subprocess.run([device_python, "-c", WATCHED, report, device, bundle, *arguments], input=sound,
                         capture_output=True, cwd=tmp_path, timeout=60)
    assert run.returncode == 0 and not run.stderr, run.stderr.decode()
    assert json.loads(run.stdout.splitlines()[0])["keyword"] == "loud"

    loaded = {name.split(".")[0] for name in json.loads(report.read_text())}
    assert loaded >= ALWAYS
    # Whatever else there is was loaded by onnxruntime itself, so it is here too where only onnxruntime is imported.
    command = "import sys, json, onnxruntime; print(json.dumps(sorted(sys.modules)))"
    plain = json.loads(subprocess.check_output([device_python, "-c", command]))
    needs = {name.split(".")[0] for name in plain}
    assert loaded - needs - set(sys.stdlib_module_names) == {"runtime"}
    assert not loaded & {"pyaudio", "soxr", "onnx", "torch", "training", "export"}


def test_the_device_says_what_it_lacks(device_python, device, bundle, write_loud, tmp_path):
    for arguments, hint in ((["--wav", write_loud(44100)], "pip install soxr"), ([], "needs PyAudio"),
                            (["--list-devices"], "needs PyAudio")):
        run = subprocess.run([device_python, device, bundle, *arguments], capture_output=True, cwd=tmp_path, text=True)
        assert run.returncode == 2 and not run.stdout
        assert run.stderr.startswith("listen: error: ") and hint in run.stderr and run.stderr.count("\n") == 1


def test_python_without_onnxruntime(bundle, device, tmp_path):
    bare = "import runpy, sys; sys.modules['onnxruntime'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    command = [sys.executable, "-c", bare, device, bundle, "--stdin"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith("listen: error: model.")
    assert run.stderr.endswith(": onnxruntime is not installed: pip install onnxruntime, or choose model.bin\n")
    assert run.stderr.count("\n") == 1
