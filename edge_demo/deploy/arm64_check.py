"""Test of the runtime on arm64: an arm64 Debian under qemu's user emulation.

    python -m edge_demo.deploy.arm64_check dist/happy-ensemble                     # or: make test-arm64

installs the packages of runtime/requirements.txt from aarch64 wheels, as a Pi does, runs runtime/listen.py on a WAV
file on both machines, and compares detections and the scores of every hop, for float and int8.

Exit code 0: all agree; 1: they do not; 2: wrong arguments, or a program is missing.
"""

import argparse
import json
import os
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np

from edge_demo.deploy import arm64
from edge_demo.deploy.command import ROOT, DeployError, need, run
from runtime.bundle.engine import Engine
from runtime.errors import BundleError

PYTHON = "3.13"
MODELS = ("model.onnx", "model.int8.onnx")
FLOAT_TOLERANCE = 1e-4

# Prints, as JSON, the scores of every hop of a WAV file by every model; run by both Pythons.
SCORES = """
import json, sys
from runtime.audio.hops import wav_hops
from runtime.bundle.engine import Engine
bundle, wav, *models = sys.argv[1:]
engines = [Engine(bundle, model) for model in models]
print(json.dumps([[e.step(hop).tolist() for hop in wav_hops(wav, e.hop_samples, print)] for e in engines]))
"""


def here(*arguments: str) -> str:
    """Output of Python with these arguments on this machine."""
    return run(sys.executable, *arguments, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


def there(*arguments: str) -> str:
    """The same on the emulated machine."""
    root, site = arm64.root(arm64.SUITES[PYTHON]), arm64.site(PYTHON)
    environment = {"PYTHONPATH": f"{site}:{ROOT}", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return run(*arm64.emulated(root), root / f"usr/bin/python{PYTHON}", *arguments, cwd=ROOT, env=environment)


def compare(bundle: str, wav: str) -> list[str]:
    """A line for each model, and one for listen.py. Raises BundleError, DeployError."""
    for model in MODELS:
        Engine(bundle, model)  # raises BundleError here, before the emulated machine does
    return [*compare_scores(bundle, wav), compare_detections(bundle, wav)]


def compare_scores(bundle: str, wav: str) -> list[str]:
    lines = []
    allowed = json.loads((Path(bundle) / "manifest.json").read_text())["measured"]["parity"]
    arguments = "-c", SCORES, bundle, wav, *MODELS
    pair = (np.array(json.loads(output)) for output in (here(*arguments), there(*arguments)))
    for model, ours, theirs in zip(MODELS, *pair, strict=True):
        largest = float(np.abs(ours - theirs).max())
        limit = FLOAT_TOLERANCE if model == MODELS[0] else allowed[model]["allowed_largest"]
        if largest > limit:
            raise DeployError(f"{bundle}/{model}: scores of arm64 differ by {largest:.2g}, {limit:g} allowed", 1)
        scores = f"{len(ours)} hops, scores up to {ours.max():.3f}"
        lines.append(f"{bundle}/{model}: {scores}, differ by at most {largest:.2g}")
    return lines


def compare_detections(bundle: str, wav: str) -> str:
    command = str(ROOT / "runtime" / "listen.py"), bundle, "--wav", wav
    events = ([json.loads(line) for line in output.splitlines()] for output in (here(*command), there(*command)))
    ours, theirs = ([(e["time_s"], e["keyword"]) for e in one if "keyword" in e] for one in events)
    if missed := set(Engine(bundle).keywords) - {keyword for _, keyword in ours}:
        raise DeployError(f"{bundle}: listen.py does not detect {', '.join(sorted(missed))} in {wav}", 1)
    if ours != theirs:
        raise DeployError(f"{bundle}: listen.py detects {theirs} on arm64 and {ours} here", 1)
    return f"{bundle}: listen.py detects the same on both: {ours}"


def audio_for(bundle: str, path: Path) -> None:
    """Write a WAV file: synthesised speech, then the bundle's keywords.wav."""
    parts = []
    for file in (*sorted((ROOT / "tests" / "fixtures").glob("*.wav")), Path(bundle) / "keywords.wav"):
        with wave.open(str(file)) as opened:
            parts.append(opened.readframes(opened.getnframes()))
    with wave.open(str(path), "wb") as joined:
        joined.setparams((1, 2, 16_000, 0, "NONE", ""))
        joined.writeframes(b"".join(parts))


def main() -> int:
    name, form = "python -m edge_demo.deploy.arm64_check", argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=name, description=__doc__, formatter_class=form)
    parser.add_argument("bundle", nargs="+", help="folder of a bundle")
    parser.add_argument("--wav", help="16 kHz, mono, 16 bits (default: the fixtures and the bundle's keywords.wav)")
    options = parser.parse_args()
    try:
        need(*arm64.NEEDS)
        with tempfile.TemporaryDirectory() as scratch:
            for bundle in options.bundle:
                wav = options.wav or str(Path(scratch) / "audio.wav")
                if not options.wav:
                    audio_for(bundle, Path(wav))
                for line in compare(bundle, wav):
                    print(line, flush=True)
    except (DeployError, BundleError, OSError) as error:
        print(f"arm64: error: {error}", file=sys.stderr)
        return getattr(error, "code", 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
