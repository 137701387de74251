"""Trained checkpoints → bundles that need neither torch nor training.

    python -m export models/happy-base --out dist
    python -m export --state-dict base.pt --keyword sheila --out dist

Exit code 0: every bundle is written and verified; 1: one was not, and nothing is left of it; 2: wrong arguments or an
unusable checkpoint.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import torch

from export.bundle import export
from export.detector import Detector, read_checkpoint
from export.int8.quantize import CANDIDATES
from export.state_dict import read_state_dict
from export.verify import VerifyError
from training.model import checkpoint

REFRACTORY_HOPS = 12  # of an imported state dict: about a second
FOLDER_NAME = re.compile(r"\w[\w.-]*")


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)  # at this size more threads only wait for each other
    try:
        detectors = read(options)
        options.out.mkdir(parents=True, exist_ok=True)
    except checkpoint.CheckpointError as error:
        return complain(str(error), 2)
    except OSError as error:
        return complain(f"--out {options.out}: {error.strerror}", 2)

    bundles = []
    for detector in detectors:
        try:
            bundles.append(export(detector, options.out, log, options.also))
        except VerifyError as error:
            complain(f"{detector.name}: no bundle: {error}", 1)
        except OSError as error:
            complain(f"{detector.name}: no bundle: cannot write to {options.out}: {error.strerror or error}", 1)
    if bundles:
        print(table(bundles, options.out))
    return 0 if len(bundles) == len(detectors) else 1


def parser() -> argparse.ArgumentParser:
    known = argparse.ArgumentParser(
        prog="python -m export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known.add_argument("checkpoints", nargs="*", type=Path, metavar="CHECKPOINT", help="folder or .safetensors file")
    known.add_argument("--out", type=Path, required=True, metavar="DIR", help="bundles go to DIR/<name>")
    known.add_argument("--also", action="append", default=[], choices=CANDIDATES, metavar="CANDIDATE",
                       help="keep this int8 form too, whether it agrees or not, as model.CANDIDATE.onnx; may be given "
                       f"again; one of {', '.join(CANDIDATES)}")  # fmt: skip
    other = known.add_argument_group("import a state dict of the student projects kws_project and kws-hw")
    other.add_argument("--state-dict", type=Path, metavar="FILE.pt", help="a CRNN with conv, gru, attention, ...")
    other.add_argument("--keyword", help="the word it was trained for")
    other.add_argument("--name", help="of the bundle (default: KEYWORD-imported)")
    other.add_argument("--stride", type=pair, default=(2, 8), metavar="MELxFRAMES", help="convolution's (default: 2x8)")
    other.add_argument("--window", type=positive, default=16, help="hops that the attention sees (default: 16)")
    other.add_argument("--keyword-class", type=int, choices=(0, 1), default=1, help="which class it is (default: 1)")
    other.add_argument("--threshold", type=fraction, default=0.7, help="score of a detection (default: 0.7)")
    return known


def pair(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers with an x between them, such as 2x8")
    return int(match[1]), int(match[2])


def positive(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 9999")
    return int(text)


def fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def read(options: argparse.Namespace) -> list[Detector]:
    """All detectors, before anything is written. Raises CheckpointError."""
    detectors = [read_checkpoint(path) for path in options.checkpoints]
    if options.state_dict:
        if not options.keyword:
            raise checkpoint.CheckpointError("--state-dict needs --keyword WORD: the file does not name it")
        model = read_state_dict(options.state_dict, options.stride, options.window, options.keyword_class)
        name = options.name or f"{options.keyword}-imported"
        detectors.append(Detector(name, model, [options.keyword], [options.threshold], REFRACTORY_HOPS))
    if not detectors:
        raise checkpoint.CheckpointError("nothing to export: name a checkpoint, such as models/happy-base")
    names = [detector.name for detector in detectors]
    for name in names:
        if not FOLDER_NAME.fullmatch(name):
            raise checkpoint.CheckpointError(f"{name!r} cannot name a bundle: letters, digits, '.', '-' and '_' can")
        if names.count(name) > 1:
            raise checkpoint.CheckpointError(f"two checkpoints are called {name}: their bundles would be one")
    return detectors


def table(bundles: list[dict[str, Any]], out: Path) -> str:
    """A line for each file: size, highest score on the verification audio, differences from the trained model's scores,
    step time. The default of each bundle is marked."""
    heads = f"{'KiB':>7} {'score':>6} {'largest':>9} {'mean':>9} {'allowed':>9} {'µs/step':>8}"
    lines = [f"{'bundle and file':<40} {heads}"]
    for bundle in bundles:
        measured = bundle["measured"]
        lines.append(str(out / bundle["name"]))
        for name, one in measured["parity"].items():
            file = bundle["files"][name]
            lines.append(
                f"  {name + (' (default)' if name == bundle['default_model'] else ''):<38} {file['bytes'] / 1024:7.1f} "
                f"{one['highest_score']:6.3f} "
                f"{one['largest']:9.1e} {one['mean']:9.1e} {one['allowed_largest']:9g} {measured['step_us'][name]:8.1f}"
            )
    return "\n".join(lines)


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def complain(line: str, code: int) -> int:
    log(f"export: {line}")
    return code


if __name__ == "__main__":
    sys.exit(main())
