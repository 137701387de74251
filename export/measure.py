"""What an export cannot know without recordings: the ranges of a model's activations, and what int8 costs it.

    EARSHOT_DATA=~/recordings python -m export.measure models/happy-base

streams ten minutes of training recordings through each checkpoint, notes the ranges of its activations, makes every
int8 candidate with them, and streams the validation clips through all. The figures go to int8.json beside the weights,
where `python -m export` finds them. Exit code 2: wrong arguments, or recordings or a checkpoint that cannot be used.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.detector import Detector
from export.quantize import calibrate, make_candidates, write_sources
from export.step import Cell
from export.verify import Array, VerifyError, onnx_form, stream
from training import checkpoint, data, metrics, streams
from training.features import SAMPLE_RATE

FILE = "int8.json"
WORDS, OTHER_SPEECH = ("speech_commands", "wake_words"), ("read_speech", "other_words")
NOISE = ("speech_commands/_background_noise_", "noise")
CALIBRATION_SECONDS = 600
PIECE = 3 * SAMPLE_RATE  # the most that is taken of one recording
KEYWORD_SHARE = 0.2  # of the pieces
MOST_OTHERS = 800  # validation clips of other words
LEVELS = (-30.0, 6.0)  # dB, relative to the recording


def recorded(path: Path) -> dict[str, Any]:
    """What was measured of a checkpoint, if anything was. Raises CheckpointError when it is of other weights."""
    weights = path / "model.safetensors" if path.is_dir() else path
    file = weights.with_name(FILE)
    if not file.exists():
        return {}
    fix = f"run python -m export.measure {weights.parent}, or remove the file"
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        if found["sha256"] != digest(weights):
            raise checkpoint.CheckpointError(f"{file}: was measured of other weights; {fix}")
        ranges = {str(name): (float(low), float(high)) for name, (low, high) in found["ranges"].items()}
        candidates = {
            str(name): {key: float(figure) for key, figure in one.items()} for name, one in found["candidates"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise checkpoint.CheckpointError(f"{file}: cannot be read ({type(error).__name__}); {fix}") from None
    return found | {"ranges": ranges, "candidates": candidates}


def digest(weights: Path) -> str:
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def calibration_stream(base: Path, keywords: list[str]) -> Array:
    """Ten minutes of training recordings, loud and quiet, one after the other. Raises DataError without any."""
    found = [c for c in data.find(base, WORDS, words=True) if c.split == "training"]
    others = [c for c in data.find(base, OTHER_SPEECH) + data.find(base, NOISE) if c.split == "training"]
    spoken = [c for c in found if c.word in keywords]
    rest = [c for c in found if c.word not in keywords] + others
    if not spoken or not rest:
        raise data.DataError(f"calibration needs training clips of {', '.join(keywords)} and of others below {base}")
    rng = np.random.default_rng(0)
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < CALIBRATION_SECONDS * SAMPLE_RATE:
        kind = spoken if rng.random() < KEYWORD_SHARE else rest
        audio = data.to_float(data.read(kind[int(rng.integers(len(kind)))].path))
        at = int(rng.integers(0, max(1, len(audio) - PIECE)))
        pieces.append(np.clip(audio[at : at + PIECE] * 10 ** (rng.uniform(*LEVELS) / 20), -1, 1))
    return np.concatenate(pieces).astype(np.float32)


def validation_clips(base: Path, keywords: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
    """Clips of the validation split, and the index of each one's keyword, -1 for none. Raises DataError."""
    found = [c for c in data.find(base, WORDS, words=True) if c.split == "validation"]
    others = [c for c in found if c.word not in keywords]
    found = [c for c in found if c.word in keywords] + others[:: -(-len(others) // MOST_OTHERS)]
    labels = np.array([keywords.index(c.word) if c.word in keywords else -1 for c in found])
    for index, keyword in enumerate(keywords):
        if not (labels == index).any() or not (labels != index).any():
            raise data.DataError(f"validation needs clips of {keyword!r} and of other words below {base}")
    return data.read_floats(found, "validation clips"), labels


def measure_ranges(detector: Detector, base: Path, source: Path | None = None) -> dict[str, Any]:
    """What int8.json holds without a judgement of the candidates. source: see `calibrate`, if it is there already."""
    training = calibration_stream(base, detector.keywords)
    with tempfile.TemporaryDirectory() as scratch:
        source = source or write_sources(detector, Path(scratch), (Cell,))[Cell]
        ranges = calibrate(source, detector, training)
    return {
        "calibrated_on": f"{CALIBRATION_SECONDS // 60} minutes of training recordings in one stream",
        "ranges": {name: [float(f"{low:.6g}"), float(f"{high:.6g}")] for name, (low, high) in ranges.items()},
        "candidates": {},
    }


def measure(detector: Detector, base: Path) -> dict[str, Any]:
    """All that int8.json holds but the weights' SHA-256."""
    clips, labels = validation_clips(base, detector.keywords)
    audio, spans = streams.joined(clips, seed=0)
    candidates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        sources = write_sources(detector, Path(scratch))
        found = measure_ranges(detector, base, sources[Cell])
        files = make_candidates(detector, sources, found["ranges"], Path(scratch))
        del files["float, fused GRU"]  # says what float says: the verification holds it to that
        reference = stream("float", onnx_form(files.pop("float"), detector), detector, audio)
        of_clips = streams.clip_scores(reference, spans, detector.hop_samples)
        for name, path in files.items():
            try:
                scores = stream(name, onnx_form(path, detector), detector, audio)
            except VerifyError:
                continue  # scores that are no numbers: the export sees it too
            differences = np.abs(scores - reference)
            mine = streams.clip_scores(scores, spans, detector.hop_samples)
            candidates[name] = {
                "more_misses": worst(mine, of_clips, labels, detector.thresholds),
                "mean_difference": float(f"{differences.mean():.3g}"),
                "p99_difference": float(f"{np.quantile(differences, 0.99):.3g}"),
            }
    spoken = int((labels >= 0).sum())
    measured_on = f"{spoken} validation clips of the keyword and {len(labels) - spoken} others in one stream"
    return found | {"measured_on": measured_on, "candidates": candidates}


def worst(mine: np.ndarray, theirs: np.ndarray, labels: np.ndarray, thresholds: list[float]) -> float:
    """More missed clips than in float, as a share: the worst over keywords, at 0.5 % FAR and at the operating point."""
    figures = []
    for index, threshold in enumerate(thresholds):
        both = mine[:, index], theirs[:, index], labels == index
        figures += [metrics.more_misses(*both), metrics.more_misses(*both, (threshold, threshold))]
    return round(max(figures), 5)


def main(arguments: list[str] | None = None) -> int:
    from export.__main__ import read_checkpoint  # which reads what is written here

    parser = argparse.ArgumentParser(
        prog="python -m export.measure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="folder made by training")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    parser.add_argument("--ranges", action="store_true", help="these only: no candidate is judged, which takes minutes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        base = data.root(options.data)
        for folder in options.checkpoints:
            weights = folder / "model.safetensors"
            found = (measure_ranges if options.ranges else measure)(read_checkpoint(folder, {}), base)
            content = {"sha256": digest(weights) if weights.exists() else "", **found}
            checkpoint.write_atomically(folder / FILE, (json.dumps(content, indent=1) + "\n").encode())
            for name, figures in content["candidates"].items():
                mark = "" if figures["more_misses"] <= 0 else "  (more than float)"
                print(
                    f"{folder}: {name}: {100 * figures['more_misses']:+.2f} points of misses, scores differ by "
                    f"{figures['mean_difference']:.2g} on average{mark}"
                )
    except (checkpoint.CheckpointError, data.DataError, OSError) as error:
        print(f"measure: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
