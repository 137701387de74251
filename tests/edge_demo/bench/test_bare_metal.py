"""The C engine on emulated Cortex-M boards says what this machine's says, and fits a microcontroller."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_demo.bench import bare_metal
from edge_demo.bench.bare_metal import BOARDS, BareMetalError, run
from export.audio import synthesise
from export.detector import read_checkpoint
from export.forms.binary import FLOAT32, INT8, to_bytes
from runtime.c.library import CEngine

ROOT = Path(__file__).resolve().parents[3]
NEEDED = bare_metal.COMPILER, bare_metal.EMULATOR
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def emulator():
    if missing := [program for program in NEEDED if not shutil.which(program)]:
        pytest.skip(f"no {missing[0]}: make machines-system")


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return np.clip(np.round(synthesise() * 32768), -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize(("kind", "allowed"), [(FLOAT32, 1e-4), (INT8, 1e-3)], ids=["float", "int8"])
def test_scores_are_this_machines(board, kind, allowed, samples, tmp_path):
    content = to_bytes(read_checkpoint(ROOT / "models" / "happy-tiny"), kind)
    (tmp_path / "model.bin").write_bytes(content)
    found = run(BOARDS[board], tmp_path / "model.bin", samples)
    engine = CEngine(content)
    wanted = np.array([engine.step(hop) for hop in samples[: len(samples) // 1280 * 1280].reshape(-1, 1280)])
    assert np.ptp(wanted) > 0.1
    assert np.abs(found.scores - wanted).max() < allowed
    if kind == INT8:
        assert found.code + len(content) <= 64 << 10  # flash
        assert found.memory + found.stack <= 24 << 10
        assert found.instructions * bare_metal.CYCLES < bare_metal.CLOCK * 0.08 / 2  # half idle


def test_weights_that_are_none(tmp_path):
    (tmp_path / "model.bin").write_bytes(bytes(1000))
    with pytest.raises(BareMetalError, match="not a model.bin: memory 0"):
        run(BOARDS["Cortex-M4F"], tmp_path / "model.bin", np.zeros(1280, np.int16))


def test_the_table(shipped):
    command = [sys.executable, "-m", "edge_demo.bench.bare_metal", shipped]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == list(BOARDS)
    assert all(re.fullmatch(r"\| happy-base \| [\w-]+ \| [\d.]+ \| [\d.]+ .*% \|", row) for row in rows)
