"""int8 against float, on recordings of speakers that nothing was trained on, streamed by the runtime's engine:

    EARSHOT_DATA=~/recordings python -m edge_demo.evaluate.compare dist/happy-ensemble dist/happy-base

- *misses*: all test clips in one long stream, through the float and the int8 model of each bundle; the share of keyword
  clips that each misses where it accepts 0.5 % of the others, and at the bundle's threshold. The interval is of 95 %,
  by paired bootstrap over clips.
- *drift*: one hour of speech and noise that begins and ends with the same five minutes, each after the same five
  seconds. How far the int8 scores are from the float ones there, first and last.

Exit code 0: in every bundle int8 misses at most half a point more, and is at the end at most a tenth further from float
than at the beginning. 1: otherwise. 2: wrong arguments, or recordings or a bundle that cannot be used.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_demo.evaluate.recordings import Recordings, load, stream, talk
from edge_demo.evaluate.report import table
from runtime.bundle.engine import Engine
from runtime.errors import BundleError
from training import metrics
from training.data import recordings as data
from training.data import streams
from training.data.recordings import SAMPLE_RATE

FLOAT, INT8 = "model.onnx", "model.int8.onnx"
HALF_A_POINT = 0.005
A_TENTH_MORE = 1.1
PREROLL, PART, HOUR = 5 * SAMPLE_RATE, 300 * SAMPLE_RATE, 3600 * SAMPLE_RATE


class Drift(NamedTuple):
    """|int8 − float| over the first and over the last five minutes."""

    mean: tuple[float, float]
    p99: tuple[float, float]

    @property
    def is_small(self) -> bool:
        return all(last <= A_TENTH_MORE * first for first, last in self)


def hour(clips: np.ndarray, talk: np.ndarray, noises: list[np.ndarray], hop_samples: int) -> np.ndarray:
    """One hour (samples,) whose first and last 305 s are the same, of whole hops, so that both ends are cut alike.

    clips: a stream, repeated when it is shorter; talk and noises: what is between the ends, repeated.
    """
    seconds = (PREROLL + PART) // hop_samples * hop_samples
    end = np.resize(clips, seconds)
    between = np.concatenate([talk, *noises]) if len(talk) or noises else clips
    middle = (HOUR // hop_samples) * hop_samples - 2 * seconds
    return np.concatenate([end, np.resize(between, middle), end])


def drift(engines: tuple[Engine, Engine], audio: np.ndarray, keyword: int) -> Drift:
    """Of two engines over one `hour`."""
    one, other = (stream(engine, audio, keyword) for engine in engines)
    differences = np.abs(one - other)
    hops, preroll = (PREROLL + PART) // engines[0].hop_samples, -(-PREROLL // engines[0].hop_samples)
    ends = differences[preroll:hops], differences[len(differences) - hops + preroll :]
    first, last = ends
    return Drift(
        (float(first.mean()), float(last.mean())), (float(np.quantile(first, 0.99)), float(np.quantile(last, 0.99)))
    )


def misses_row(scores: list[np.ndarray], labels: np.ndarray, thresholds: tuple[float, float] | None) -> list[str]:
    """Missed clips in float and in int8, and how many more with the interval, as text.

    scores: of each clip, float then int8; thresholds: of both, or None: where each accepts 0.5 % of the other clips.
    """
    bars = thresholds or [metrics.threshold_at_far(one, labels, 0.005) for one in scores]
    shares = [(one[labels == 1] < bar).mean() for one, bar in zip(scores, bars, strict=True)]
    low, high = metrics.paired_bootstrap(scores[1], scores[0], labels, thresholds)
    more = f"{100 * (shares[1] - shares[0]):+.2f} points ({100 * low:+.2f} … {100 * high:+.2f})"
    return [*(f"{100 * share:.2f} %" for share in shares), more]


def compare(bundle: str, base: Path) -> tuple[list[list[str]], bool]:
    """A row for each keyword and figure, and whether int8 is within the bounds. Raises BundleError, DataError."""
    engines = Engine(bundle, FLOAT), Engine(bundle, INT8)
    rows, good = [], True
    for keyword, word in enumerate(engines[0].keywords):
        recordings: Recordings = load(base, word)
        clips = recordings.positives + recordings.negatives
        labels = np.array([1] * len(recordings.positives) + [0] * len(recordings.negatives))
        audio, spans = streams.joined(clips, seed=1)
        scores = [stream(engine, audio, keyword)[:, None] for engine in engines]
        hop = engines[0].hop_samples
        of_clips = [streams.clip_scores(one, spans, hop)[:, 0] for one in scores]
        threshold = engines[0].thresholds[keyword]
        name = f"{Path(bundle).name}:{word}"
        for where, bars in (("at 0.5 % FAR", None), ("at its threshold", (threshold, threshold))):
            good &= metrics.more_misses(of_clips[1], of_clips[0], labels, bars) <= HALF_A_POINT
            rows.append([name, f"misses {where}", *misses_row(of_clips, labels, bars)])
        drifted = drift(engines, hour(audio, talk(base), recordings.noises, hop), keyword)
        good &= drifted.is_small
        for figure, (first, last) in zip(("mean", "99 %"), drifted, strict=True):
            ratio = f"{last / first:.3f} ×" if first else "no difference"
            rows.append([name, f"|int8 − float|, {figure}: first, last", f"{first:.2e}", f"{last:.2e}", ratio])
    return rows, good


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edge_demo.evaluate.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", nargs="+", help="folder of a bundle")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    args = parser.parse_args()
    lines, good = [["", "", "float", "int8", "int8 against float"]], True
    try:
        base = data.root(args.data)
        for bundle in args.bundle:
            rows, bundle_is_good = compare(bundle, base)
            lines += rows
            good &= bundle_is_good
    except (BundleError, data.DataError, OSError) as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(table(lines))
    each = "each model misses" if good else "compare: error: not every model misses"
    print(f"{each} at most 0.5 points more in int8 than in float, and drifts by at most a tenth in an hour")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
