"""The wheel: built, installed into an environment with nothing else, and used within a minute."""

import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

from runtime import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, shipped) -> Path:
    """Built from a copy: what a checkout has besides the sources may be of another day."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("runtime", "edge_demo", "pyproject.toml", "setup.py", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    (source / "dist").mkdir()
    subprocess.run(["cp", "-r", shipped, source / "dist" / "happy-ensemble"], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", out, source], check=True)
    (path,) = out.glob("earshot-*.whl")
    return path


def test_it_holds_what_a_device_needs_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for name in names:
            if name.endswith(".py"):
                text = archive.read(name).decode()
                assert "from runtime" not in text and "from edge_demo" not in text and "import torch" not in text, name
    needed = ("py.typed", "sinks/dashboard/page.html", "home_assistant/wyoming_server.py", "c/earshot.c", "c/earshot.h")
    assert {f"earshot/{name}" for name in needed} < {*names}
    assert {name for name in names if name.startswith("earshot/bundles/")} == {
        f"earshot/bundles/happy-ensemble/{file}"
        for file in ("manifest.json", "model.onnx", "model.int8.onnx", "model.bin", "model.int8.bin", "keywords.wav")
    }
    assert {name.split("/")[0].split("-")[0] for name in names} == {"earshot"}
    assert not [name for name in names if "examples" in name]


@pytest.mark.slow
def test_from_nothing_to_a_detection_in_a_minute(wheel, shipped, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    binaries, began = tmp_path / "env" / "bin", time.monotonic()
    subprocess.run([binaries / "pip", "install", "--quiet", wheel], check=True)
    found = subprocess.run([binaries / "earshot", "wav", shipped / "keywords.wav"], check=True, capture_output=True)
    assert b'"keyword": "happy"' in found.stdout
    taken = time.monotonic() - began
    listed = subprocess.run([binaries / "earshot", "bundles"], check=True, capture_output=True, text=True)
    assert listed.stdout == "happy-ensemble: happy\n"
    program = "import earshot, sys; earshot.Detector('happy'); print({'torch', 'runtime', 'training'} & {*sys.modules})"
    run = subprocess.run([binaries / "python", "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout == "set()\n"
    assert taken < 60  # last: a machine that is loaded fails this alone


@pytest.mark.slow
def test_pypi_would_take_it(wheel):
    pytest.importorskip("twine")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel], check=True)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["listen"], ["happy"]),
        (["listen", "--bundle", "jarvis", "--meter"], ["jarvis", "--meter"]),
        (["wav", "a.wav", "b.wav"], ["happy", "--wav", "a.wav", "b.wav"]),
        (["wav", "a.wav", "--json", "--bundle", "a", "b"], ["a", "b", "--json", "--wav", "a.wav"]),
        (["listen", "--config", "x"], ["--config", "x"]),
        (["devices"], ["--list-devices"]),
    ],
)
def test_a_command_is_listen_with_options(monkeypatch, arguments, given):
    seen = []
    monkeypatch.setattr("runtime.listen.main", lambda options: seen.append(options) or 0)
    assert cli.main(arguments) == 0 and seen == [given]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["listn"], "did you mean listen?"),
        (["xyz"], "see earshot --help"),
        (["wav"], "earshot wav FILE …"),
        (["listen", "--bundle"], "--bundle: expected a name: see earshot bundles"),
        (["bench", "nowhere"], "nowhere"),
    ],
)
def test_a_mistyped_command_is_answered(capsys, arguments, answer):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and answer in said and said.count("\n") == 1


def test_help_shows_every_command(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"earshot {command}" in shown for command in cli.COMMANDS)


def test_a_bench_times_the_bundles_it_is_given(capsys, bundle):
    assert cli.main(["bench", str(bundle)]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert float(line.split()[2]) > 0 and float(line.split()[3]) > 0
