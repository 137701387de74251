"""How good a bundle is, streamed hop by hop by the runtime's own engine and detector, as on the device:

    EARSHOT_DATA=~/recordings python -m edge_demo.evaluate dist/happy-base
    EARSHOT_DATA=~/recordings python -m edge_demo.evaluate dist/happy-base dist/happy-small   # side by side

Every figure is of recordings that nothing was trained on: the testing lists, and `continuous/`. What is random is drawn
from a fixed seed, the same for every bundle. Intervals are of 95 %.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from runtime.engine import BundleError, Engine
from training import data, metrics
from training.data import SAMPLE_RATE, Clip, to_float

SILENCES = "speech_commands/_silence_"
AFTER = SAMPLE_RATE // 2  # half a second of low noise follows each clip
LATEST = 0.5  # seconds after a clip's end at which an event still counts as a hit
TRACKS = 100
SNRS = (None, 20, 10, 5, 0)  # dB; None: as recorded


@dataclass(frozen=True)
class Recordings:
    """Test recordings of one keyword, float32."""

    keyword: str
    positives: list[np.ndarray]  # clips of the testing list
    negatives: list[np.ndarray]  # all others there, and background only
    talk: np.ndarray  # continuous/, joined
    noises: list[np.ndarray]


def load(base: Path, keyword: str) -> Recordings:
    clips = [c for c in data.find(base, ["speech_commands", "wake_words"], words=True) if c.split == "testing"]
    home = {c.path.parents[1] for c in clips if c.word == keyword}
    if not home:
        raise data.DataError(f"no test clips of {keyword!r} below {base}")
    # Negatives come from the corpus of the keyword, recorded like it; other corpora are too easily told apart.
    negatives = [c for c in clips if c.word != keyword and c.path.parents[1] in home]
    silences = [c for c in data.find(base, [SILENCES])] if base / "speech_commands" in home else []
    talk = data.read_all(data.find(base, ["continuous"]), "continuous speech")
    noises = [c for c in data.find(base, ["noise"]) if c.split == "testing"]
    return Recordings(
        keyword,
        floats([c for c in clips if c.word == keyword], keyword),
        floats(negatives + silences, "negatives"),
        to_float(np.concatenate(talk)) if talk else np.zeros(0, np.float32),
        floats(noises, "noise"),
    )


def floats(clips: list[Clip], what: str) -> list[np.ndarray]:
    return [to_float(audio) for audio in data.read_all(clips, what)]


def hops_of(engine: Engine, audio: np.ndarray) -> np.ndarray:
    """(n,) → (hops, hop_samples), the last one filled up with zeros."""
    hop = engine.hop_samples
    whole = np.zeros(-(-len(audio) // hop) * hop, np.float32)
    whole[: len(audio)] = audio
    return whole.reshape(-1, hop)


def stream(engine: Engine, audio: np.ndarray, keyword: int) -> np.ndarray:
    """Scores of each hop of one stream from zero state: (hops,)."""
    engine.reset()
    return np.array([engine.step(hop)[keyword] for hop in hops_of(engine, audio)])


def low_noise(n: int, rng: np.random.Generator) -> np.ndarray:
    return (rng.standard_normal(n) * 1e-3).astype(np.float32)


def clip_figures(engine: Engine, recordings: Recordings, keyword: int) -> dict:
    """Every clip by itself from zero state, half a second of low noise after it, scored by its maximum."""
    rng = np.random.default_rng(1)
    clips = recordings.positives + recordings.negatives
    labels = np.array([1] * len(recordings.positives) + [0] * len(recordings.negatives))
    scores = np.array([
        stream(engine, np.concatenate([clip, low_noise(AFTER, rng)]), keyword).max() for clip in bar(clips, "clips")
    ])
    return {
        "clips": {"keyword": int(labels.sum()), "others": int((1 - labels).sum())},
        "au_fa_fr": metrics.au_fa_fr(scores, labels),
        "one_minus_auroc": metrics.one_minus_auroc(scores, labels),
        "frr_at_half_percent_far": metrics.frr_at_far(scores, labels, 0.005),
        "frr_at_half_percent_far_interval": metrics.bootstrap(scores, labels),
        "threshold_missing_5_percent": float(np.quantile(scores[labels == 1], 0.05, method="lower")),
    }


def alarm_figures(engine: Engine, recordings: Recordings, keyword: int, thresholds: dict[str, float]) -> dict:
    """False accepts in continuous speech and in the negatives joined into one stream."""
    rng = np.random.default_rng(2)
    order = rng.permutation(len(recordings.negatives))
    streams = {
        "continuous": recordings.talk,
        "joined_negatives": np.concatenate([recordings.negatives[i] for i in order]),
    }
    figures: dict = {}
    for name, audio in streams.items():
        if not len(audio):
            continue
        intervals = metrics.event_intervals(stream(engine, audio, keyword), engine.refractory_hops)
        hours = len(audio) / SAMPLE_RATE / 3600
        for point, threshold in thresholds.items():
            events = int(metrics.count_events(intervals, threshold))
            low, high = metrics.poisson(events)
            figures[f"{name}_at_{point}"] = {
                "false_accepts": events,
                "hours": round(hours, 3),
                "per_hour": events / hours,
                "per_hour_interval": (low / hours, high / hours),
            }
    return figures


def track_figures(engine: Engine, recordings: Recordings, keyword: int, threshold: float) -> dict:
    """Tracks of 20 other clips around one of the keyword: is it found, once, and nothing else?"""
    rng = np.random.default_rng(3)
    found = clean = 0
    for _ in bar(range(TRACKS), "tracks"):
        pieces = [recordings.negatives[i] for i in rng.choice(len(recordings.negatives), 20, replace=False)]
        place = int(rng.integers(21))
        pieces.insert(place, recordings.positives[int(rng.integers(len(recordings.positives)))])
        start = sum(map(len, pieces[:place])) / SAMPLE_RATE
        end = start + len(pieces[place]) / SAMPLE_RATE
        times = events(engine, np.concatenate([*pieces, low_noise(AFTER, rng)]), keyword, threshold)
        inside = [start <= t <= end + 0.6 for t in times]
        found += sum(inside) == 1
        clean += sum(inside) == len(inside)
    return {"tracks": TRACKS, "one_detection_at_keyword": found / TRACKS, "none_elsewhere": clean / TRACKS}


def events(engine: Engine, audio: np.ndarray, keyword: int, threshold: float) -> np.ndarray:
    """Times of the events in seconds: the end of the hop."""
    low, high = metrics.event_intervals(stream(engine, audio, keyword), engine.refractory_hops)
    hops = np.flatnonzero((low < threshold) & (threshold <= high))
    return (hops + 1) * engine.hop_samples / SAMPLE_RATE


def bar(items: Iterable, what: str) -> Iterable:
    return tqdm(items, desc=what, leave=False)


def evaluate(engine: Engine, base: Path, keyword: int = 0) -> dict:
    """All figures of one keyword of a bundle."""
    recordings = load(base, engine.keywords[keyword])
    clips = clip_figures(engine, recordings, keyword)
    thresholds = {
        "operating_point": engine.thresholds[keyword],
        "5_percent_missed": clips["threshold_missing_5_percent"],
    }
    return {
        "keyword": engine.keywords[keyword],
        "model": engine.model,
        "threshold": engine.thresholds[keyword],
        **clips,
        **alarm_figures(engine, recordings, keyword, thresholds),
        **track_figures(engine, recordings, keyword, engine.thresholds[keyword]),
    }


def rows(figures: dict, prefix: str = "") -> dict[str, str]:
    """Nested figures → one line each, as text."""
    lines: dict[str, str] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            lines |= rows(value, f"{prefix}{name}.")
        elif isinstance(value, (tuple, list)):
            lines[prefix + name] = " … ".join(f"{v:.4g}" for v in value)
        else:
            lines[prefix + name] = f"{value:.4g}" if isinstance(value, float) else str(value)
    return lines


def table(columns: dict[str, dict]) -> str:
    """Figures by name of bundle, side by side."""
    texts = {name: rows(figures) for name, figures in columns.items()}
    labels = list(dict.fromkeys(label for text in texts.values() for label in text))
    lines = [["", *texts], *([label, *(text.get(label, "") for text in texts.values())] for label in labels)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edge_demo.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="+", help="folder of a bundle")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    parser.add_argument("--model", help="model.onnx or model.int8.onnx (default: the bundle's own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    columns = {}
    try:
        base = data.root(args.data)
        for bundle in args.bundle:
            engine = Engine(bundle, args.model)
            for keyword, word in enumerate(engine.keywords):
                columns[f"{Path(bundle).name}:{word}"] = evaluate(engine, base, keyword)
        if args.json:
            args.json.write_text(json.dumps(columns, indent=1) + "\n")
    except (BundleError, data.DataError, OSError) as error:
        print(f"evaluate: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(table(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
