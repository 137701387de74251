import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEECH = ROOT / "tests" / "fixtures" / "other_flite_sentence.wav"


def demo(*arguments):
    command = [sys.executable, "-m", "edge_demo.demo", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_draws_a_picture_of_a_recording(bundle, tmp_path):
    out = tmp_path / "picture.png"
    done = demo(SPEECH, "--bundle", bundle, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG") and "picture:" in done.stdout


@pytest.mark.parametrize("wav, out", [("nowhere.wav", "x.png"), (SPEECH, "nowhere/x.png")])
def test_mistakes_are_one_line(bundle, wav, out):
    done = demo(wav, "--bundle", bundle, "--out", out)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "nowhere" in done.stderr
