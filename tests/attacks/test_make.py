"""Values given to make that are commands, for make itself and for the shell. Both are real; Python writes down what it
was told.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
GIVEN = re.search(r"^GIVEN := ((?:.*\\\n)*.*)", MAKEFILE, re.MULTILINE)[1].replace("\\\n", "").split()
LISTS = ("BUNDLE", "BUNDLES", "DIST", "MODELS", "RECIPES")
# Each part is harmless to all readers but one: make, the shell, the shell within "", within '', within ``.
HOSTILE = """x; touch owned; $(touch owned) `touch owned` $(shell touch owned) "; touch owned; " '; touch owned; ' #"""
FLAGS = ("PEERS", "QUICK", "RETRAIN", "ROLLBACK")
# What a variable is for, and what has to be given beside it.
TARGETS = {
    "BUNDLE": "test-all soak evaluate compare test-arm64 demo deploy flash image test-image",
    "CONFIG": "deploy flash image",
    "DEVICE": "flash record", "FORCE": "flash", "FROM": "record", "HOURS": "soak", "IMAGE": "flash", "KEYWORD": "train",
    "MODELS": "export",
    "OUT": "flash", "PEERS": "evaluate bench", "PI": "deploy", "PYTHON": ".venv-peers/ready", "QUICK": "table",
    "RECIPE": "train", "RECIPES": "table", "RETRAIN": "table", "ROLLBACK": "deploy", "SEED": "train",
    "SETTINGS": "flash", "SPEAKER": "record", "VERSION": "data", "WAV": "demo test", "WORD": "record",
}
BESIDE = {"deploy": {"PI": "anna@kitchen"}, "flash": {"IMAGE": "os.img"}}
PAIRS = [(name, target) for name, targets in TARGETS.items() for target in targets.split()]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the Makefile, whose Python and package manager do nothing but write down what they were told."""
    for name in ("dpkg", "update-binfmts", "python"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\n[ {name} != python ] || printf "%s\\0" "$@" >> "{tmp_path}/told"\n')
        path.chmod(0o755)
    for name in ("requirements.lock", "edge_demo/bench/peers.lock", "models/word/model.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in (".venv", ".venv-peers"):
        (tmp_path / name / "bin").mkdir(parents=True)
        shutil.copy(tmp_path / "bin/python", tmp_path / name / "bin/python")
        (tmp_path / name / "ready").touch()
    (tmp_path / "Makefile").write_text(MAKEFILE)
    return tmp_path


def make(
    desk: Path, target: str, name: str, value: str, in_environment: bool = False
) -> subprocess.CompletedProcess[str]:
    given = {**BESIDE.get(target, {}), name: value}
    words = [] if in_environment else [f"{key}={text}" for key, text in given.items()]
    environment = {"PATH": f"{desk}/bin:{os.environ['PATH']}", **(given if in_environment else {})}
    always = ["--always-make"] if target.startswith(".") else []
    return subprocess.run(["make", *always, target, *words], cwd=desk, env=environment, capture_output=True, text=True)


def test_every_variable_is_tried():
    assert set(TARGETS) == set(GIVEN)
    used = set(re.findall(r"\$[($]([A-Z]+)\b", MAKEFILE))
    assigned = set(re.findall(r"^(?:override )?(?:export )?([A-Z_]+) [:?]?=", MAKEFILE, re.MULTILINE))
    assert used - assigned - {"MAKE"} <= set(GIVEN)
    recipes = "\n".join(line for line in MAKEFILE.splitlines() if line.startswith(("\t", "OPTIONS")))
    raw = re.findall(r"\$\(([A-Z]+)\)", re.sub(r"\$\(if \$\([A-Z]+\),", "", recipes))
    assert not {*GIVEN, "BUNDLES", "DIST"} & set(raw)


@pytest.mark.parametrize("in_environment", [False, True], ids=["argument", "environment"])
@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_what_is_given_is_text(desk, name, target, in_environment):
    process = make(desk, target, name, HOSTILE, in_environment and name != "MODELS")  # which the Makefile sets itself
    assert not (desk / "owned").exists(), process.stdout
    if name == "PYTHON":  # which is a program
        assert process.returncode and "not found" in process.stderr
        return
    assert process.returncode == 0, process.stderr
    told = (desk / "told").read_text().split("\0")
    wanted = HOSTILE.split() if name in LISTS and target != "demo" else [HOSTILE]
    if name not in FLAGS and target != "test":
        assert all(word in told or any(one.endswith(f"={word}") for one in told) for word in wanted), told


@pytest.mark.parametrize(("name", "target"), [pair for pair in PAIRS if pair[0] not in FLAGS and pair[1] != "test"])
def test_the_shell_runs_what_is_not_read_from_the_environment(desk, name, target):
    quoted = re.compile(rf"\$\${name}\b")
    makefile = MAKEFILE.replace("$$BUNDLES", "$$BUNDLE").replace("$$DIST", "$$BUNDLE") if name == "BUNDLE" else MAKEFILE
    (desk / "Makefile").write_text(quoted.sub(f"$({name})", makefile))
    make(desk, target, name, "x; touch owned; ", False)
    make(desk, target, name, '"; touch owned; "', False)
    assert (desk / "owned").exists()


@pytest.mark.parametrize(("name", "target"), PAIRS)
def test_make_runs_what_it_does_not_take_as_it_is(desk, name, target):
    (line,) = re.findall(r"^\$\(foreach name,\$\(GIVEN\).*\n", MAKEFILE, re.MULTILINE)
    (desk / "Makefile").write_text(MAKEFILE.replace(line, ""))
    make(desk, target, name, "$(shell touch owned)")
    assert (desk / "owned").exists()


def test_lists_and_lines(desk):
    make(desk, "compare", "BUNDLE", "dist/a dist/b")
    assert (desk / "told").read_text().split("\0")[:4] == ["-m", "edge_demo.evaluate.compare", "dist/a", "dist/b"]
    (desk / "told").unlink()
    make(desk, "demo", "WAV", "a\nb $x.wav", in_environment=True)
    assert (desk / "told").read_text().split("\0")[:3] == ["-m", "edge_demo.demo", "a\nb $x.wav"]
    (desk / "told").unlink()
    make(desk, "compare", "SEED", "0")
    assert "dist/word" in (desk / "told").read_text().split("\0")
