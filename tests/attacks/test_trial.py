"""The trial in a child process, the second line: what the scan would not know of ends there and not in the listener."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import toy
from attack import change_model
from on_graphs import SCAN
from test_endless import DIVISION, at_every_step, divided
from test_memory import SIZES, sparse_weights

from runtime.bundle import trial
from runtime.bundle.engine import Engine
from runtime.errors import BundleError

QUICK = ("CPU_SECONDS = 20", "CPU_SECONDS = 1")
NO_TRIAL = ("    folder = os.fspath(bundle_dir)\n    command", "    return None\n    command")
PACE = ("    if fastest > engine.hop_samples", "    if False and fastest > engine.hop_samples")


def too_slow(folder: Path) -> None:
    """Work that is allowed, in a hop of a quarter of a millisecond."""
    graph = toy.GRAPH.replace("1280", "4").replace("240", "4").replace("1040", "0")
    chain = "\n".join(f"m{n + 1} = MatMul(m{n}, many)" for n in range(55))
    graph = graph.replace("score = Sigmoid(logit)", f"m0 = MatMul(audio, first)\n {chain}\n none = Mul(m55, no)\n"
                          "sum_none = ReduceMean(none, axis)\n low = Add(logit, sum_none)\n score = Sigmoid(low)")
    graph = graph.replace("float[1] half", "float[1] no = {0.0}, float[1] half")
    tail = {"name": "tail", "shape": [1, 4]}
    toy.write_bundle(folder, graph, hop_samples=4, states=[toy.MANIFEST["states"][0], tail])
    weights = {"first": np.ones((4, 640), np.float32), "many": np.full((640, 640), 1 / 640, np.float32)}
    change_model(folder, lambda model: model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in weights.items()))


@pytest.fixture
def weak_trial(weak_copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The trial of a runtime with those checks taken out; it stops after a second."""

    def make(*changes: tuple[str, str]) -> Any:
        folder = weak_copy(QUICK, *changes)
        monkeypatch.syspath_prepend(folder.parent)
        return importlib.import_module(f"{folder.name}.bundle.trial")

    return make


def test_a_good_bundle_is_tried_and_then_taken(tmp_path):
    folder = toy.write_bundle(tmp_path / "bundle")
    assert trial.try_out(folder, "model.onnx") == Engine(folder, "model.onnx").sha256
    Engine(folder, sha256=trial.try_out(folder))


def test_another_model_than_the_one_that_was_tried(tmp_path):
    folder = toy.write_bundle(tmp_path / "bundle")
    tried = trial.try_out(folder)
    toy.write_bundle(folder, toy.GRAPH.replace("{5.0}", "{-5.0}"))
    with pytest.raises(BundleError, match="was changed since it was tried"):
        Engine(folder, sha256=tried)


@pytest.mark.parametrize("folder", ["nothing", "a\0b", "", "-c", "\udcff"])
def test_what_is_no_bundle(folder):
    with pytest.raises(BundleError, match="manifest.json: "):
        Engine(folder, sha256=trial.try_out(folder))


@pytest.mark.parametrize(("build", "out", "refusal"), [
    (at_every_step, SIZES, "its trial took more than 1 s"),
    (divided("Div"), [DIVISION], f"its trial ended with code -{signal.SIGFPE.value}"),
    (sparse_weights, [SCAN], "cannot load it"),
    (too_slow, [], "longer than its audio lasts"),
], ids=["endless", "divided", "memory", "slow"])
def test_what_the_scan_did_not_find(tmp_path, weak_trial, build, out, refusal):
    build(tmp_path / "bundle")
    weak = weak_trial(*out)
    with pytest.raises(weak.BundleError) as caught:
        weak.try_out(tmp_path / "bundle")
    assert refusal in str(caught.value) and str(caught.value).isprintable()


def test_without_a_second_python_there_is_no_trial(tmp_path, monkeypatch):
    folder = toy.write_bundle(tmp_path / "bundle")
    for python in (str(tmp_path / "nothing"), "/bin/false", None):
        monkeypatch.setattr(sys, "executable", python)
        assert trial.try_out(folder) is None


# As another user

USER = 61184
RUN = "        _run(engine)\n"
BECOME = "            _become(int(user[0]))\n"
SPIES = {
    "reads": ("        refuse('secret', open({0!r}).read(), '')\n", BECOME),
    "writes": ("        open({0!r}, 'w').close()\n", BECOME),
    "starts others": ("        os._exit(os.fork() and 2)\n", "    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n"),
    "speaks to the terminal": ("        refuse('session', str(os.getsid(0) == os.getsid(os.getppid())), '')\n",
                               ", start_new_session=user is not None"),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user: run it with sudo")
@pytest.mark.parametrize("spy", SPIES)
def test_a_bundle_that_got_further_than_it_should(tmp_path, weak_trial, spy):
    """What it would do is done in the place of its steps."""
    act, mend = SPIES[spy]
    folder, secret = toy.write_bundle(tmp_path / "bundle"), tmp_path / "secret"
    folder.chmod(0o755)

    def attack(*out: tuple[str, str]) -> str:
        secret.write_text("of root")
        secret.chmod(0o600)
        weak = weak_trial((RUN, act.format(str(secret))), *out)
        try:
            return str(weak.try_out(folder, user=USER))
        except weak.BundleError as error:
            return str(error)

    def is_done(said: str) -> bool:
        return {"reads": "of root" in said, "writes": not secret.read_text(), "starts others": "code 2" in said,
                "speaks to the terminal": "session: True" in said}[spy]

    assert not is_done(attack())
    assert is_done(attack((mend, "            pass\n" if mend == BECOME else "")))


def test_what_root_tries_is_told_with_its_name(tmp_path):
    folder = toy.write_bundle(tmp_path / "bundle")
    folder.chmod(0o755)
    if os.geteuid() == 0:
        assert trial.try_out(folder, user=USER) == Engine(folder).sha256
    (folder / "report.md").write_text("# repart\n")
    with pytest.raises(BundleError, match=f"^{folder}/report.md: its SHA-256"):
        trial.try_out(folder, user=USER if os.geteuid() == 0 else None)


def used(process: int) -> float:
    """Processor time of a process and its children, in seconds."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(map(used, map(int, children)))
    return 0.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_trial_that_does_not_end(tmp_path, weak_copy, number):
    at_every_step(tmp_path / "bundle")
    for out in ((*SIZES, NO_TRIAL), SIZES):
        script = weak_copy(*out) / "listen.py"
        process = subprocess.Popen([sys.executable, script, tmp_path / "bundle", "--stdin"], stdin=subprocess.PIPE)
        while used(process.pid) < 1.5:  # it is in the middle of it
            time.sleep(0.1)
        process.send_signal(number)
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            assert NO_TRIAL in out
        else:
            assert NO_TRIAL not in out and process.returncode == 0
        finally:
            process.kill()
            process.wait()
