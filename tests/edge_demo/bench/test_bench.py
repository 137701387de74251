"""The bench in small: whole tables are drawn of a few hops."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_demo.bench import __main__ as bench
from edge_demo.bench import race, systems, table
from training.model import checkpoint

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def quick(monkeypatch):
    """Few hops, and the CPUs that this process may use as they were."""
    for name, few in {"ROUNDS": 2, "BURST": 5, "STARTS": 1, "MANY": 2000}.items():
        monkeypatch.setattr(race, name, few)
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None, raising=False)


def test_a_table_of_what_a_device_can_measure(bundle, quick, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "find_spec", {"matplotlib": True}.get)  # no torch, no soundfile
    monkeypatch.setattr("sys.argv", ["bench.py", str(bundle), "--plot", str(tmp_path / "plot.png")])
    assert bench.main() == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| happy")]
    names = [row[0].removeprefix("happy-base: ") for row in rows]
    assert names == ["onnxruntime float", "onnxruntime int8", "two bundles, one process"]
    for row in rows:
        middle, late, latest, cpu, rtf, peak, start, installed, ratio = map(float, row[1:])
        assert 0 < middle <= late <= latest and cpu > 0 and 0 < rtf < 1 and peak > 20 and start > 0 and ratio > 0
        assert installed > 50
    assert rows[0][-1] == "1.00"
    assert "of 2000 hops the first thousand took" in out
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore")  # torch on its own old ways
def test_torch_systems_say_what_the_bundle_says(bundle, tmp_path):
    checkpoint_path = str(ROOT / "models" / "happy-base")
    systems.save_torchscript_int8(checkpoint_path, str(tmp_path))
    rng = np.random.default_rng(0)
    hops = rng.normal(0, 0.05, (10, systems.HOP)).astype(np.float32)

    def scores(system: str, path: Path | str) -> np.ndarray:
        prepare, step = systems.SYSTEMS[system](str(path))
        return np.array([float(np.squeeze(step(prepare(hop)))) for hop in hops])

    wanted = scores("engine", bundle / "model.onnx")
    np.testing.assert_allclose(scores("torch-eager", checkpoint_path), wanted, atol=1e-4)
    np.testing.assert_allclose(scores("torchscript", bundle), wanted, atol=1e-4)
    np.testing.assert_allclose(scores("torchscript", tmp_path), wanted, atol=0.05)


def test_a_model_of_two_keywords_is_the_shipped_one_twice(tmp_path):
    systems.save_two_keywords(str(ROOT / "models" / "happy-base"), str(tmp_path))
    model, info = checkpoint.load(tmp_path)
    assert info.keywords == ["happy", "happy again"] and model.size.keywords == len(info.thresholds) == 2


def test_peers_are_a_best_and_a_ratio():
    ours = race.System("x: onnxruntime float", ["python"], ("numpy",), [(0.1, 0.1)], [[10.0]], [10.0, 12.0, 50.0])
    slow, quick = (race.System(peer, ["python"], ()) for peer in table.PEERS)
    slow.cpu, quick.cpu = [100.0, 120.0, 100.0], [20.0, 24.0, 100.0]
    assert table.best_peer([ours, slow, quick]) is quick
    assert ours.ratio(quick) == 0.5
    assert ours.cpu_ms() == pytest.approx(12 * 12.5 / 1000)


def test_mistakes_are_one_line(bundle, quick, monkeypatch, tmp_path, capsys):
    for text in ("", "{}", "[]", '{"hop_samples": 640}'):
        (tmp_path / "manifest.json").write_text(text)
        monkeypatch.setattr("sys.argv", ["bench.py", str(tmp_path)])
        assert bench.main() == 2
        told = capsys.readouterr().err
        assert "is no bundle" in told and told.count("\n") == 1
    monkeypatch.setattr("sys.argv", ["bench.py", str(bundle), "--peers", str(tmp_path / "python")])
    assert bench.main() == 2 and "no such program" in capsys.readouterr().err
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "model.onnx").write_bytes(b"")
    monkeypatch.setattr("sys.argv", ["bench.py", str(broken)])
    with pytest.raises(SystemExit, match=r"^bench: error: broken: onnxruntime float: .*half-written"):
        bench.main()


def test_a_system_steps_on_command_with_what_the_device_has(bundle, tmp_path):
    """No torch, no training, no soundfile: `python edge_demo/bench` runs on the device."""
    np.zeros(3 * systems.HOP, np.float32).tofile(tmp_path / "hops")
    bare = "import runpy, sys; sys.modules.update(dict.fromkeys(['torch', 'training', 'soundfile', 'matplotlib']));"
    bare += "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", bare, ROOT / "edge_demo" / "bench" / "systems.py", "engine", bundle / "model.onnx"]
    done = subprocess.run([*command, tmp_path / "hops"], input="4\n1\n", capture_output=True, text=True)
    first, four, one = map(json.loads, done.stdout.splitlines())
    assert len(four["wall_ns"]) == 4 and len(one["wall_ns"]) == 1
    assert four["cpu_ns"] > 0 and first["peak_mb"] <= four["peak_mb"]
