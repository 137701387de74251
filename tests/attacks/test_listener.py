"""A bundle that fails while the listener runs: the others listen on, and so does the listener while one is tried."""

import json
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from attack import ROOT
from lines import without_over
from on_graphs import extra
from test_endless import at_every_step
from test_memory import SIZES
from test_trial import PACE, QUICK, too_slow

SILENCE = bytes(24 * 2560)
LOUD = (32767 * np.sign(np.sin(np.arange(16_000)))).astype("<i2").tobytes()


def fails_when_loud(folder: Path) -> None:
    """Looks up what is not there, when it is louder than the trial's sounds are."""
    toy.write_bundle(folder, extra("""far = Mul(energy, more)
        place = Cast<to = 7>(far)
        found = Gather<axis = 1>(level, place)
        extra = Reshape(found, flat)""", "float[1] more = {1.5}"), keywords=["other"])


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return toy.write_bundle(tmp_path / "good")


def heard(runtime: Path, *bundles: Path, audio: bytes = SILENCE + LOUD) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, JSON lines and stderr of a listener that hears that."""
    command = [sys.executable, runtime / "listen.py", *bundles, "--stdin"]
    done = subprocess.run(command, input=audio, capture_output=True, timeout=60)
    return done.returncode, without_over(done.stdout), done.stderr.decode()


def test_a_step_that_fails_disables_its_bundle_alone(tmp_path, good, weak_copy):
    fails_when_loud(tmp_path / "bad")
    code, lines, _ = heard(ROOT / "runtime", good, tmp_path / "bad")
    assert code == 0 and [line.get("event", line.get("keyword")) for line in lines] == ["loud", "bundle_disabled"]
    assert lines[0]["bundle"] == "good" and lines[1]["bundle"] == "bad" and "its step failed" in lines[1]["reason"]

    caught = "except Exception as error:  # onnxruntime's exceptions share no other base\n            raise EarError"
    weak = weak_copy((caught, caught.replace("Exception", "ZeroDivisionError", 1)))
    code, lines, said = heard(weak, tmp_path / "bad", good)
    assert code == 1 and not lines and "Traceback" in said


def test_when_the_last_is_disabled_it_ends(tmp_path):
    fails_when_loud(tmp_path / "bad")
    code, lines, said = heard(ROOT / "runtime", tmp_path / "bad")
    assert code == 2 and [line["event"] for line in lines] == ["bundle_disabled"]
    assert said.startswith("listen: error: bad: its step failed (") and said.count("\n") == 1


def test_a_step_that_is_too_slow_disables_its_bundle(tmp_path, weak_copy):
    """The trial would find it; a bundle may become slow later, when numbers grow too small for quick arithmetic."""
    too_slow(tmp_path / "slow")
    code, lines, said = heard(weak_copy(PACE), tmp_path / "slow")
    assert code == 2 and [line["event"] for line in lines] == ["bundle_disabled"]
    assert "its step takes longer than its audio lasts" in lines[0]["reason"] and "no other bundle is left" in said

    began = time.monotonic()
    code, lines, _ = heard(weak_copy(PACE, ("        if self._late == MOST_LATE:\n", "        if False:\n")),
                           tmp_path / "slow", audio=SILENCE[:8000])
    assert code == 0 and not lines and time.monotonic() - began > 0.25  # for a quarter of a second of audio


def test_without_a_second_python_it_says_that_nothing_was_tried(good):
    bare = "import runpy, sys; sys.executable = ''; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", bare, ROOT / "runtime" / "listen.py", good, "--stdin"],
                          input=SILENCE + LOUD, capture_output=True, timeout=60)
    assert [line.get("event") for line in without_over(done.stdout)] == ["untried", None]
    assert done.returncode == 0 and not done.stderr


STARTED = "            self._reader.start()\n"
WAITED_FOR = (STARTED, STARTED + "            self._reader.join()\n")


@pytest.mark.parametrize(("out", "order"), [
    ([], ["loud", "loud", "reload_failed"]),
    ([WAITED_FOR], ["loud", "reload_failed", "loud"]),
], ids=["in a thread", "waited for"])
def test_audio_goes_on_while_a_bundle_is_tried_again(good, weak_copy, out, order):
    """A bundle that never ends comes into the place of the good one; its trial takes a second."""
    command = [sys.executable, weak_copy(QUICK, *SIZES, *out) / "listen.py", good, "--stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        process.stdin.write(SILENCE + LOUD)
        lines = [json.loads(process.stdout.readline())]
        at_every_step(good)
        process.send_signal(signal.SIGHUP)
        process.stdin.write(SILENCE + LOUD)
        end = time.monotonic() + 30
        while len(lines) < 3 and time.monotonic() < end:
            process.stdin.write(SILENCE[:2560])
            if select.select([process.stdout], [], [], 0.08)[0]:
                lines += without_over(process.stdout.readline())
        process.stdin.close()
    assert [line.get("event", line.get("keyword")) for line in lines] == order
    assert "its trial took more than 1 s" in lines[order.index("reload_failed")]["reason"] and process.returncode == 0
