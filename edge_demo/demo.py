"""Draw a recording and a bundle's answer: waveform, log-mel spectrogram, and score over time with the events marked.

    make demo WAV=recording.wav
    python -m edge_demo.demo recording.wav --bundle dist/happy-ensemble --out demo.png
"""

import argparse
import math
import sys
from itertools import chain
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from runtime.audio.hops import AudioError, quiet_room, wav_hops
from runtime.bundle.detector import Detector
from runtime.bundle.engine import Engine
from runtime.errors import BundleError
from training.model.features import FLOOR, FRAME_STEP, SAMPLE_RATE, TAIL, LogMel


def run(engine: Engine, path: str) -> tuple[np.ndarray, np.ndarray, list[tuple[float, int]]]:
    """A WAV file through a bundle: audio (n,), scores (hops, keywords), events as (seconds, keyword)."""
    detector = Detector(engine.thresholds, engine.refractory_hops)
    audio, scores, events = [], [], []
    hops = wav_hops(path, engine.hop_samples, lambda text: print(f"demo: {text}", file=sys.stderr))
    for hop in chain(hops, quiet_room(engine.hop_samples)):
        audio.append(hop)
        scores.append(engine.step(hop))
        time = len(audio) * engine.hop_samples / SAMPLE_RATE
        events += [(time, keyword) for keyword in detector.step(scores[-1])]
    return np.concatenate(audio), np.array(scores), events


def draw(engine: Engine, audio: np.ndarray, scores: np.ndarray, events: list[tuple[float, int]], title: str):
    """Three pictures over one time axis."""
    seconds = len(audio) / SAMPLE_RATE
    mel, _ = LogMel()(torch.from_numpy(audio[: len(audio) // FRAME_STEP * FRAME_STEP])[None], torch.zeros(1, TAIL))
    figure, (level, picture, score) = plt.subplots(
        3, 1, sharex=True, figsize=(11, 6.5), height_ratios=[1, 1.6, 1.4], layout="constrained"
    )
    level.plot(np.arange(len(audio)) / SAMPLE_RATE, audio, color="0.35", linewidth=0.4)
    level.set(ylabel="audio", ylim=(-1, 1), title=title)
    decibels = (mel[0].T.numpy() + math.log(FLOOR)) * 10 / math.log(10)
    picture.imshow(decibels, origin="lower", aspect="auto", extent=(0, seconds, 0, 40), cmap="magma")
    picture.set(ylabel="mel band")
    hop = engine.hop_samples / SAMPLE_RATE
    for keyword, name in enumerate(engine.keywords):
        (line,) = score.step(np.arange(len(scores) + 1) * hop, np.append(0, scores[:, keyword]), label=name)
        score.axhline(engine.thresholds[keyword], color=line.get_color(), linestyle=":", linewidth=1)
        for time, detected in events:
            if detected == keyword:
                score.axvline(time, color=line.get_color(), alpha=0.5)
                score.annotate(f"{name} {time:.2f} s", (time, 1.03), fontsize=8, annotation_clip=False)
    score.set(ylabel="score (dotted: threshold)", xlabel="seconds", ylim=(0, 1.15), xlim=(0, seconds))
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edge_demo.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wav", help="recording; any rate and channel count")
    parser.add_argument("--bundle", default="dist/happy-ensemble", help="default: dist/happy-ensemble")
    parser.add_argument("--out", type=Path, help="picture to write (default: the recording's name with .png)")
    args = parser.parse_args()
    try:
        engine = Engine(args.bundle)
        audio, scores, events = run(engine, args.wav)
    except (BundleError, AudioError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2
    out = args.out or Path(args.wav).with_suffix(".png")
    try:
        draw(engine, audio, scores, events, f"{Path(args.wav).name} through {Path(args.bundle).name}").savefig(out)
    except OSError as error:
        print(f"demo: error: {out}: {error.strerror}; choose another place with --out", file=sys.stderr)
        return 2
    for time, keyword in events:
        print(f"{time:8.2f} s  {engine.keywords[keyword]}")
    print(f"{len(events)} events; picture: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
