"""Calibrate and choose the int8 form of a checkpoint, on recordings, which an export does not have.

    EARSHOT_DATA=~/recordings python -m export.int8.measure models/happy-base

streams ten minutes of training recordings through each checkpoint, records the ranges of its activations, makes every
int8 candidate with them, streams the validation clips through all, and chooses one. Ranges, figures and choice go to
int8.json beside the weights, where `python -m export` finds them.

Exit code 2: wrong arguments, or recordings or a checkpoint that cannot be used.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from export.audio import keyword_audio, verification_audio
from export.detector import Detector, read_checkpoint
from export.forms.onnx import export_onnx
from export.int8 import recorded
from export.int8.choose import choose, figures
from export.int8.quantize import CANDIDATES, FRONT_END, calibrate, make_candidates, precision
from export.int8.recorded import Recorded, Trial
from export.step.step import Step, offline_scores
from export.verify import Array, VerifyError, onnx_form, stream
from training import metrics
from training.data import recordings as data
from training.data import streams
from training.model import checkpoint
from training.model.features import SAMPLE_RATE

WORDS, OTHER_SPEECH = ("speech_commands", "wake_words"), ("read_speech", "other_words")
NOISE = ("speech_commands/_background_noise_", "noise")
CALIBRATION_SECONDS = 600
PIECE = 3 * SAMPLE_RATE  # the most that is taken of one recording
KEYWORD_SHARE = 0.2  # of the pieces
MOST_OTHERS = 800  # validation clips of other words
LEVELS = (-30.0, 6.0)  # dB, relative to the recording


def calibration_stream(base: Path, keywords: list[str]) -> Array:
    """Ten minutes of training recordings, loud and quiet, one after the other. Raises DataError without any."""
    words = [c for c in data.find(base, WORDS, words=True) if c.split == "training"]
    others = [c for c in data.find(base, OTHER_SPEECH) + data.find(base, NOISE) if c.split == "training"]
    positives = [c for c in words if c.word in keywords]
    negatives = [c for c in words if c.word not in keywords] + others
    if not positives or not negatives:
        raise data.DataError(f"calibration needs training clips of {', '.join(keywords)} and of others below {base}")
    rng = np.random.default_rng(0)
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < CALIBRATION_SECONDS * SAMPLE_RATE:
        kind = positives if rng.random() < KEYWORD_SHARE else negatives
        audio = data.to_float(data.read(kind[int(rng.integers(len(kind)))].path))
        at = int(rng.integers(0, max(1, len(audio) - PIECE)))
        pieces.append(np.clip(audio[at : at + PIECE] * 10 ** (rng.uniform(*LEVELS) / 20), -1, 1))
    return np.concatenate(pieces).astype(np.float32)


def validation_clips(base: Path, keywords: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
    """Clips of the validation split, and the index of each one's keyword, -1 for none. Raises DataError."""
    words = [c for c in data.find(base, WORDS, words=True) if c.split == "validation"]
    others = [c for c in words if c.word not in keywords]
    clips = [c for c in words if c.word in keywords] + others[:: -(-len(others) // MOST_OTHERS)]
    labels = np.array([keywords.index(c.word) if c.word in keywords else -1 for c in clips])
    for index, keyword in enumerate(keywords):
        if not (labels == index).any() or not (labels != index).any():
            raise data.DataError(f"validation needs clips of {keyword!r} and of other words below {base}")
    return data.read_floats(clips, "validation clips"), labels


def measure(detector: Detector, base: Path, ranges_only: bool = False) -> Recorded:
    """The content of int8.json. Raises DataError, and VerifyError when no candidate agrees with the model."""
    training = calibration_stream(base, detector.keywords)
    calibrated_on = f"{CALIBRATION_SECONDS // 60} minutes of training recordings in one stream"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "model.onnx"
        export_onnx(Step(detector.model), detector, source)
        ranges = calibrate(source, detector, training)
        ranges = {name: (float(f"{low:.6g}"), float(f"{high:.6g}")) for name, (low, high) in ranges.items()}
        if ranges_only:
            return Recorded(calibrated_on, ranges)
        names = [n for n, candidate in CANDIDATES.items() if detector.trained_ranges or not candidate.trained]
        files = make_candidates(names, source, detector, ranges, Path(scratch))
        clips, labels = validation_clips(base, detector.keywords)
        trials = try_all(detector, source, files, clips, labels)
    positives = int((labels >= 0).sum())
    measured_on = f"{positives} validation clips of the keyword and {len(labels) - positives} others in one stream"
    return Recorded(calibrated_on, ranges, measured_on, choose(trials), trials)


def try_all(
    detector: Detector, source: Path, files: dict[str, Path], clips: list[np.ndarray], labels: np.ndarray
) -> dict[str, Trial]:
    """Every candidate whose scores are finite, measured. source: the float file; clips, labels: `validation_clips`."""
    synthetic = verification_audio(keyword_audio(detector))
    trained = offline_scores(detector.model, torch.from_numpy(synthetic)).numpy()
    audio, spans = streams.joined(clips, seed=0)
    reference = stream("float", onnx_form(source, detector), detector, audio)
    of_clips = streams.clip_scores(reference, spans, detector.hop_samples)
    trials = {}
    for name, path in tqdm(files.items(), desc="int8 candidates", leave=False):
        form = onnx_form(path, detector)
        try:
            agreement = np.abs(stream(name, form, detector, synthetic) - trained)
            scores = stream(name, form, detector, audio)
        except VerifyError:
            continue
        differences = np.abs(scores - reference)
        mine = streams.clip_scores(scores, spans, detector.hop_samples)
        nodes = [node for node, integer in precision(source, path).items() if not integer]
        more_misses = worst(mine, of_clips, labels, detector.thresholds)
        measured = agreement.max(), agreement.mean(), more_misses, differences.mean(), np.quantile(differences, 0.99)
        trials[name] = Trial(
            path.stat().st_size,
            [node for node in nodes if not node.startswith(FRONT_END)],
            *(float(f"{value:.3g}") for value in measured),
        )
    return trials


def worst(mine: np.ndarray, theirs: np.ndarray, labels: np.ndarray, thresholds: list[float]) -> float:
    """Missed clips beyond float's, as a share: the worst over keywords, at 0.5 % FAR and at the operating point."""
    figures = []
    for index, threshold in enumerate(thresholds):
        both = mine[:, index], theirs[:, index], labels == index
        figures += [metrics.more_misses(*both), metrics.more_misses(*both, (threshold, threshold))]
    return max(figures)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m export.int8.measure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="folder made by training")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    parser.add_argument("--ranges", action="store_true", help="calibrate only; judging the candidates takes minutes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        base = data.root(options.data)
        for folder in options.checkpoints:
            result = measure(read_checkpoint(folder, measured=False), base, options.ranges)
            recorded.write(folder / "model.safetensors", result)
            for name, trial in result.trials.items():
                print(f"{folder}: {name}{' (chosen)' if name == result.chosen else ''}: {figures(trial)}")
    except (checkpoint.CheckpointError, data.DataError, VerifyError, OSError) as error:
        print(f"measure: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
