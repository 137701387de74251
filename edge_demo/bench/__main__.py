"""Cost of a bundle on this machine, beside torch and beside other detectors.

    python edge_demo/bench dist/happy-ensemble       # on the device: the runtime's requirements are enough
    make bench                                       # all shipped models, torch too
    PEERS=1 make bench                               # pymicro-wakeword and pyopen-wakeword too

Every system runs in a process of its own (`systems.py`), all on one CPU and in turn: a round gives each the same hops
from memory, so that other load slows all alike. A ratio is the median of the rounds' ratios. Torch systems run where
torch is installed and the checkpoint `models/<name>` exists; peers run in the environment that `--peers` names.
Audio: clips of Speech Commands where EARSHOT_DATA is set and soundfile is installed, else noise. The cost does not
depend on the audio.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

if not __package__:  # run as `python edge_demo/bench`: find the folder that holds the rooms
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from edge_demo.bench.race import BURST, RATE, ROUNDS, STARTS, System, ageing, default_model, progress, race, worker
from edge_demo.bench.systems import HOP
from edge_demo.bench.table import PEERS, draw, ratios, table

ROOT = Path(__file__).resolve().parents[2]
HOPS = 200  # in memory, of audio: 16 s, 1 MB in every process


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python edge_demo/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="folder with manifest.json and the models")
    parser.add_argument("--peers", metavar="PYTHON", help="of an environment with pymicro-wakeword and pyopen-wakeword")
    parser.add_argument("--plot", metavar="FILE", help="draw latencies and costs (needs matplotlib)")
    options = parser.parse_args()
    if options.plot and not find_spec("matplotlib"):
        return fail("--plot needs matplotlib: pip install matplotlib")
    if options.peers and not shutil.which(options.peers):
        return fail(f"--peers {options.peers}: no such program: name an environment's bin/python")
    bundles = [Path(bundle).resolve() for bundle in options.bundles]
    for bundle in bundles:
        try:
            default_model(bundle)
        except (OSError, ValueError, KeyError, TypeError):
            return fail(f"{bundle} is no bundle of {HOP} samples per step: name a folder by python -m export")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # children inherit it: one CPU, one thread for all

    with tempfile.TemporaryDirectory() as scratch:
        hops = os.path.join(scratch, "hops.f32")
        audio = write_audio(Path(hops))
        systems = [one for bundle in bundles for one in of_bundle(bundle, Path(scratch))]
        if options.peers:
            systems += [System(peer, worker(options.peers, peer), (peer,)) for peer in PEERS]
        progress(f"{machine()}; {audio}; {BURST} hops × {ROUNDS} rounds after one to warm up, {STARTS} starts")
        race(systems, hops)
        print(f"\n{machine()}, Python {platform.python_version()}; {audio}.\n")
        print(table(systems, options.peers))
        print()
        for bundle in bundles:
            print("\n".join(f"- {line}" for line in ratios(bundle, systems)))
        for bundle in bundles:
            print(f"- {bundle.name}: {ageing(bundle, hops)}")
    if options.plot:
        draw(systems, options.plot)
    return 0


def fail(mistake: str) -> int:
    print(f"bench: error: {mistake}", file=sys.stderr)
    return 2


def of_bundle(bundle: Path, scratch: Path) -> list[System]:
    """All systems of a bundle that can run on this machine."""
    name, ours = bundle.name, ("numpy", "onnxruntime")
    model = default_model(bundle)
    systems = [
        System(f"{name}: onnxruntime {kind}", worker(sys.executable, "engine", bundle / file), ours)
        for kind, file in (("float", "model.onnx"), ("int8", "model.int8.onnx"))
    ]
    two_bundles = worker(sys.executable, "engine", f"{model}:{model}")
    systems.append(System(f"{name}: two bundles, one process", two_bundles, ours))
    if not find_spec("torch"):
        return systems
    if (bundle / "model.torchscript").is_file():
        systems.append(System(f"{name}: TorchScript", worker(sys.executable, "torchscript", bundle), ("torch",)))
    checkpoint = ROOT / "models" / name
    if checkpoint.is_dir():
        int8, pair = scratch / f"{name}-int8", scratch / f"{name}-pair"
        int8.mkdir()
        run(worker(sys.executable, "save-torchscript-int8", checkpoint), int8)
        systems.append(System(f"{name}: TorchScript int8", worker(sys.executable, "torchscript", int8), ("torch",)))
        systems.append(System(f"{name}: torch eager", worker(sys.executable, "torch-eager", checkpoint), ("torch",)))
        run(worker(sys.executable, "save-two-keywords", checkpoint), pair)
        run([sys.executable, "-m", "export", str(pair), "--out"], scratch)
        two = worker(sys.executable, "engine", scratch / pair.name / model.name)
        systems.append(System(f"{name}: one model, two keywords", two, ours))
    return systems


def run(command: list[str], last: Path) -> None:
    """Run a command that prepares a model."""
    done = subprocess.run([*command, str(last)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: error: {' '.join(command)}: {(done.stderr.strip().splitlines() or [''])[-1]}")


def write_audio(path: Path) -> str:
    """Write the `HOPS` hops that all systems step → a description."""
    audio = np.random.default_rng(0).normal(0, 0.05, HOPS * HOP).astype(np.float32)
    kind = "noise"
    data = os.environ.get("EARSHOT_DATA")
    clips = sorted(Path(data).glob("speech_commands/[!_]*/*.*")) if data and find_spec("soundfile") else []
    if clips:
        import soundfile

        every = max(1, len(clips) // (HOPS * HOP // RATE))  # a clip lasts a second at most
        parts = [soundfile.read(clip, dtype="float32")[0] for clip in clips[::every]]
        audio, kind = np.resize(np.concatenate(parts), HOPS * HOP), f"{len(parts)} clips of Speech Commands"
    audio.tofile(path)
    return f"{HOPS * HOP / RATE:g} s of audio, {kind}"


def machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
