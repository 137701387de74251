"""How good a bundle is, streamed hop by hop by the runtime's own engine and detector, as on the device:

    EARSHOT_DATA=~/recordings python -m edge_demo.evaluate dist/happy-ensemble
    EARSHOT_DATA=~/recordings python -m edge_demo.evaluate dist/happy-ensemble dist/happy-small   # side by side
    EARSHOT_DATA=~/recordings python -m edge_demo.evaluate dist/happy-ensemble --wanted 0.5       # choose the threshold

Every figure is of recordings that nothing was trained on: the testing lists, and `continuous/`. What is random is drawn
from a fixed seed, the same for every bundle. Intervals are of 95 %.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from export.threshold import set_thresholds
from runtime.engine import BundleError, Engine
from training import augment, data, metrics
from training.augment import AROUND, low_noise
from training.data import SAMPLE_RATE, to_float

SILENCES = "speech_commands/_silence_"
ROOT = Path(__file__).resolve().parents[1]
JOINED = "joined_negatives"
LATEST = 0.5  # seconds after a clip's end at which an event still counts as a hit
TRACKS = 100
OTHERS = 20  # clips around the one of the keyword in each track
CLIPS_PER_STREAM = 12  # with two seconds of other words between them that makes a minute
ROOMS = 40
ROOM_SEED = 1_000_003  # not training's
CONDITIONS = {  # name → (signal-to-noise ratio in dB or None for as recorded, factor of level)
    "clean": (None, 1.0),
    "20_db": (20, 1.0),
    "10_db": (10, 1.0),
    "5_db": (5, 1.0),
    "0_db": (0, 1.0),
    "10_times_quieter": (None, 0.1),
    "4_times_louder": (None, 4.0),
}


@dataclass(frozen=True)
class Recordings:
    """Test recordings of one keyword, float32."""

    positives: list[np.ndarray]  # clips of the testing list
    validation: list[np.ndarray]  # clips of the keyword in the validation list
    negatives: list[np.ndarray]  # all others there, and background only
    talk: np.ndarray  # continuous/, joined
    noises: list[np.ndarray]


@functools.cache  # several models hear the same
def load(base: Path, keyword: str) -> Recordings:
    """Raises DataError where there is too little to measure with."""
    found = data.find(base, ["speech_commands", "wake_words"], words=True)
    clips = [c for c in found if c.split == "testing"]
    home = {c.path.parents[1] for c in clips if c.word == keyword}
    if not home:
        raise data.DataError(f"no test clips of {keyword!r} below {base}")
    # Negatives come from the corpus of the keyword, recorded like it; other corpora are too easily told apart.
    negatives = [c for c in clips if c.word != keyword and c.path.parents[1] in home]
    if len(negatives) < OTHERS:
        have = f"{len(negatives)} test clips of other words than {keyword!r} below {base}"
        raise data.DataError(f"{have}, {OTHERS} needed; add some")
    silences = [c for c in data.find(base, [SILENCES])] if base / "speech_commands" in home else []
    talk = data.read_all(data.find(base, ["continuous"]), "continuous speech")
    noises = [c for c in data.find(base, ["noise"]) if c.split == "testing"]
    return Recordings(
        data.read_floats([c for c in clips if c.word == keyword], keyword),
        data.read_floats([c for c in found if c.word == keyword and c.split == "validation"], keyword),
        data.read_floats(negatives + silences, "negatives"),
        to_float(np.concatenate(talk)) if talk else np.zeros(0, np.float32),
        data.read_floats(noises, "noise"),
    )


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


def clip_scores(engine: Engine, recordings: Recordings, keyword: int) -> tuple[np.ndarray, np.ndarray]:
    """Every clip by itself from zero state, half a second of low noise after it: its highest score, and 1 for clips of
    the keyword."""
    rng = np.random.default_rng(1)
    clips = recordings.positives + recordings.negatives
    labels = np.array([1] * len(recordings.positives) + [0] * len(recordings.negatives))
    scores = np.array([
        stream(engine, np.concatenate([clip, low_noise(AROUND, rng)]), keyword).max() for clip in bar(clips, "clips")
    ])
    return scores, labels


def clip_figures(scores: np.ndarray, labels: np.ndarray) -> dict:
    return {
        "clips": {"keyword": int(labels.sum()), "others": int((1 - labels).sum())},
        "au_fa_fr": metrics.au_fa_fr(scores, labels),
        "one_minus_auroc": metrics.one_minus_auroc(scores, labels),
        "frr_at_half_percent_far": metrics.frr_at_far(scores, labels, 0.005),
        "frr_at_half_percent_far_interval": metrics.bootstrap(scores, labels),
        "threshold_missing_5_percent": float(np.quantile(scores[labels == 1], 0.05, method="lower")),
    }


@dataclass(frozen=True)
class Alarms:
    """A stream without the keyword, at every threshold."""

    name: str
    hours: float
    intervals: tuple[np.ndarray, np.ndarray]  # see event_intervals

    def per_hour(self, thresholds: np.ndarray) -> np.ndarray:
        return metrics.count_events(self.intervals, thresholds) / self.hours


def negative_streams(recordings: Recordings, folders: list[Path]) -> dict[str, np.ndarray]:
    """Continuous speech, the negatives joined into one stream, and any folder the user names."""
    rng = np.random.default_rng(2)
    order = rng.permutation(len(recordings.negatives))
    streams = {
        "continuous": recordings.talk,
        JOINED: np.concatenate([recordings.negatives[i] for i in order]),
    }
    for folder in folders:
        clips = data.clips_of(folder, words=False)
        if not clips:
            raise data.DataError(f"{folder}: no recordings ({' '.join(data.SUFFIXES)}); name another with --also")
        streams[folder.name] = np.concatenate(data.read_floats(clips, folder.name))
    return {name: audio for name, audio in streams.items() if len(audio)}


def hear_negatives(engine: Engine, streams: dict[str, np.ndarray], keyword: int) -> list[Alarms]:
    return [
        Alarms(
            name,
            len(audio) / SAMPLE_RATE / 3600,
            metrics.event_intervals(stream(engine, audio, keyword), engine.refractory_hops),
        )
        for name, audio in streams.items()
    ]


def false_accepts(events: int, hours: float) -> dict:
    """With an exact Poisson interval."""
    low, high = metrics.poisson(events)
    return {
        "false_accepts": events,
        "hours": round(hours, 3),
        "per_hour": events / hours,
        "per_hour_interval": (low / hours, high / hours),
    }


def peer_figures(python: str, streams: dict[str, np.ndarray]) -> dict[str, dict]:
    """False accepts of microWakeWord's models on the same streams, at their own thresholds; `python` has them."""
    columns: dict[str, dict] = {}
    for name, audio in bar(streams.items(), "peers"):
        with tempfile.NamedTemporaryFile(suffix=".f32") as file:
            audio.astype(np.float32).tofile(file.name)
            command = [python, "-m", "edge_demo.peers", file.name]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.splitlines() or ["it ended without a word"])[-1]
            raise data.DataError(f"{python}: {reason}; make .venv-peers/ready")
        for model, events in json.loads(done.stdout).items():
            point = false_accepts(events, len(audio) / SAMPLE_RATE / 3600)
            columns.setdefault(f"microWakeWord:{model}", {})[f"{name}_at_operating_point"] = point
    return columns


def alarm_figures(heard: list[Alarms], thresholds: dict[str, float]) -> dict:
    """False accepts of each stream."""
    return {
        f"{alarms.name}_at_{point}": false_accepts(int(metrics.count_events(alarms.intervals, threshold)), alarms.hours)
        for alarms in heard
        for point, threshold in thresholds.items()
    }


def track_figures(engine: Engine, recordings: Recordings, keyword: int, threshold: float) -> dict:
    """Tracks of 20 other clips around one of the keyword: is it found, once, and nothing else?"""
    rng = np.random.default_rng(3)
    found = clean = 0
    for _ in bar(range(TRACKS), "tracks"):
        pieces = [recordings.negatives[i] for i in rng.choice(len(recordings.negatives), OTHERS, replace=False)]
        place = int(rng.integers(OTHERS + 1))
        pieces.insert(place, recordings.positives[int(rng.integers(len(recordings.positives)))])
        start = sum(map(len, pieces[:place])) / SAMPLE_RATE
        end = start + len(pieces[place]) / SAMPLE_RATE
        times = events(engine, np.concatenate([*pieces, low_noise(AROUND, rng)]), keyword, threshold)
        inside = [start <= t <= end + 0.6 for t in times]
        found += sum(inside) == 1
        clean += sum(inside) == len(inside)
    return {"tracks": TRACKS, "one_detection_at_keyword": found / TRACKS, "none_elsewhere": clean / TRACKS}


def events(engine: Engine, audio: np.ndarray, keyword: int, threshold: float) -> np.ndarray:
    """Times of the events in seconds: the end of the hop."""
    low, high = metrics.event_intervals(stream(engine, audio, keyword), engine.refractory_hops)
    hops = np.flatnonzero((low < threshold) & (threshold <= high))
    return (hops + 1) * engine.hop_samples / SAMPLE_RATE


@dataclass(frozen=True)
class Listened:
    """What streams with clips of the keyword in them made of each clip."""

    intervals: list[tuple[np.ndarray, np.ndarray]]  # of the hops in which an event is a hit, see event_intervals
    delays: list[np.ndarray]  # of those hops: seconds from the end of the word to the end of the hop

    def hits(self, threshold: float) -> np.ndarray:
        """(clips,) whether each was detected."""
        return np.array([((low < threshold) & (threshold <= high)).any() for low, high in self.intervals])

    def first_delays(self, threshold: float) -> np.ndarray:
        """Delay of the first event of each clip that was detected."""
        firsts = []
        for (low, high), delays in zip(self.intervals, self.delays, strict=True):
            events = delays[(low < threshold) & (threshold <= high)]
            firsts += list(events[:1])
        return np.array(firsts)


def listen_to_streams(
    engine: Engine, recordings: Recordings, keyword: int, rooms: list[np.ndarray], snr: float | None, gain: float
) -> Listened:
    """All clips of the keyword, a dozen to a stream, other words between them.

    With `snr`, each clip stands in one random room, and one random noise sounds from half a second before it to half a
    second after it. An event between a clip's start and LATEST after its end is a hit; as it is an event only when no
    hop of the refractory time before it reached the threshold, a score that was high already makes a miss.
    """
    rng = np.random.default_rng(4)
    hop = engine.hop_samples
    found = Listened([], [])
    clips, noises = recordings.positives, recordings.noises or [np.zeros(1, np.float32)]
    for first in bar(range(0, len(clips), CLIPS_PER_STREAM), "streams"):
        pieces, spans = [low_noise(SAMPLE_RATE, rng)], []
        for clip in clips[first : first + CLIPS_PER_STREAM]:
            pieces += [recordings.negatives[int(i)] for i in rng.choice(len(recordings.negatives), 2, replace=False)]
            segment = augment.spoken_in(clip, noises, rooms, snr, rng)
            start = sum(map(len, pieces)) + AROUND
            pieces.append(segment)
            spans.append((start, start + data.spoken_part(clip)[1], start + len(clip)))
        audio = np.clip(np.concatenate([*pieces, low_noise(SAMPLE_RATE, rng)]) * gain, -1, 1)
        low, high = metrics.event_intervals(stream(engine, audio, keyword), engine.refractory_hops)
        ends = (np.arange(len(high)) + 1) * hop
        for start, word_end, end in spans:
            inside = (ends > start) & (ends <= end + LATEST * SAMPLE_RATE)
            found.intervals.append((low[inside], high[inside]))
            found.delays.append((ends[inside] - word_end) / SAMPLE_RATE)
    return found


def miss_figures(
    engine: Engine, recordings: Recordings, keyword: int, threshold: float, conditions: Iterable[str] = CONDITIONS
) -> tuple[dict, Listened]:
    """Misses in each condition, and time to the event; also what the clean streams made of each clip."""
    rooms = augment.room_responses(ROOMS, ROOM_SEED)
    figures: dict = {}
    clean = Listened([], [])
    for name in conditions:
        snr, gain = CONDITIONS[name]
        if snr is not None and not recordings.noises:
            continue
        listened = listen_to_streams(engine, recordings, keyword, rooms, snr, gain)
        hits = listened.hits(threshold)
        missed = len(hits) - int(hits.sum())
        figures[f"misses_{name}"] = {"share": missed / len(hits), "interval": metrics.wilson(missed, len(hits))}
        if name == "clean":
            clean = listened
            delays = listened.first_delays(threshold)
            if len(delays):
                figures["seconds_to_event"] = {
                    "median": float(np.median(delays)),
                    "p90": float(np.quantile(delays, 0.9)),
                }
    return figures, clean


def bar(items: Iterable, what: str) -> Iterable:
    return tqdm(items, desc=what, leave=False)


@dataclass(frozen=True)
class Det:
    """Misses in clean streams against false accepts per hour, at many thresholds and at the operating point."""

    stream: str
    hours: float
    per_hour: np.ndarray
    misses: np.ndarray
    at: tuple[float, float]  # (false accepts per hour, share of misses) at the bundle's threshold


def operating_point(heard: list[Alarms], wanted: float) -> float:
    """The lowest threshold that keeps every stream but the testing lists' to `wanted` false accepts per hour, however
    short it is."""
    streams = [alarms for alarms in heard if alarms.name != JOINED]
    if not streams:
        raise data.DataError("an operating point needs continuous/ below the recordings, or a folder with --also")
    return max(metrics.operating_point(alarms.intervals, int(wanted * alarms.hours)) for alarms in streams)


@dataclass(frozen=True)
class Clips:
    """What became of each clip: to compare models by."""

    scores: np.ndarray  # (clips,) see clip_scores
    labels: np.ndarray  # (clips,)
    hits: np.ndarray  # (keyword clips,) whether each was detected in clean streams at the threshold


def evaluate(
    engine: Engine,
    base: Path,
    keyword: int = 0,
    folders: list[Path] | None = None,
    wanted: float | None = None,
    conditions: Iterable[str] = CONDITIONS,
) -> tuple[dict, Det, Clips]:
    """All figures of one keyword of a bundle but for the tracks', its DET curve and what became of each clip; at its
    threshold, or at the one that makes `wanted` false accepts per hour."""
    recordings = load(base, engine.keywords[keyword])
    scores, labels = clip_scores(engine, recordings, keyword)
    clips = clip_figures(scores, labels)
    heard = hear_negatives(engine, negative_streams(recordings, folders or []), keyword)
    threshold = engine.thresholds[keyword]
    if wanted is not None:
        threshold = operating_point(heard, wanted)
    misses, clean = miss_figures(engine, recordings, keyword, threshold, conditions)
    points = {"operating_point": threshold, "5_percent_missed": clips["threshold_missing_5_percent"]}
    figures = {
        "model": engine.model,
        "threshold": threshold,
        "validation_clips_missed": validation_misses(engine, recordings, keyword, threshold),
        **clips,
        **alarm_figures(heard, points),
        **misses,
    }
    return figures, det_curve(clean, heard[0], threshold), Clips(scores, labels, clean.hits(threshold))


def validation_misses(engine: Engine, recordings: Recordings, keyword: int, threshold: float) -> float:
    """Share of the validation clips, each from zero state, that stay below the threshold."""
    rng = np.random.default_rng(5)
    clips = [np.concatenate([clip, low_noise(AROUND, rng)]) for clip in recordings.validation]
    return float(np.mean([stream(engine, clip, keyword).max() < threshold for clip in clips])) if clips else 0.0


def det_curve(listened: Listened, alarms: Alarms, threshold: float) -> Det:
    thresholds = 1 / (1 + np.exp(-np.linspace(-4, 9, 200)))
    misses = np.array([1 - listened.hits(t).mean() for t in [*thresholds, threshold]])
    per_hour = alarms.per_hour(np.append(thresholds, threshold))
    return Det(alarms.name, alarms.hours, per_hour[:-1], misses[:-1], (per_hour[-1], misses[-1]))


def draw(columns: dict[str, dict], curves: dict[str, Det], path: Path) -> None:
    """DET curves and misses in each condition, side by side; no false accept at all is drawn at half of one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for name, det in curves.items():
        least = 0.5 / det.hours
        (line,) = left.plot(np.maximum(det.per_hour, least), det.misses * 100, label=name)
        left.plot(max(det.at[0], least), det.at[1] * 100, "o", color=line.get_color())
    left.set(xscale="log", ylim=(0, 25), ylabel="missed keywords, %", title="dots: operating points")
    left.set_xlabel("false accepts per hour of " + " and ".join({det.stream for det in curves.values()}))
    left.grid(alpha=0.3, which="both")
    left.legend()
    width = 0.8 / len(curves)
    for place, name in enumerate(curves):
        figures = columns[name]
        misses = {key.removeprefix("misses_"): value for key, value in figures.items() if key.startswith("misses_")}
        shares = np.array([value["share"] for value in misses.values()]) * 100
        bounds = np.array([value["interval"] for value in misses.values()]).T * 100
        spots = np.arange(len(misses)) + (place - (len(curves) - 1) / 2) * width
        right.bar(spots, shares, width, yerr=np.abs(bounds - shares), capsize=2, label=name)
        right.set_xticks(range(len(misses)), [key.replace("_", " ") for key in misses], rotation=20)
    right.set(ylabel="missed keywords at the operating point, %", title="intervals: 95 %")
    right.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=120)
    plt.close(figure)


HEADING = "## How good it is"


def put_into_report(report: Path, columns: dict[str, dict], picture: str) -> None:
    """Write the figures as the last section of a bundle's report, in place of what was there."""
    before = report.read_text().split(HEADING)[0].rstrip() if report.exists() else f"# {report.parent.name}"
    lines = [[cell.strip() for cell in line] for line in cells(columns)]
    marks = ["---", *["--:"] * (len(lines[0]) - 1)]
    markdown = "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], marks, *lines[1:]])
    said = "By `python -m edge_demo.evaluate`; intervals are of 95 %."
    report.write_text(f"{before}\n\n{HEADING}\n\n{said}\n\n![DET curve and misses]({picture})\n\n{markdown}\n")


def rows(figures: dict, prefix: str = "") -> dict[str, object]:
    """Nested figures → one line each."""
    lines: dict[str, object] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            lines |= rows(value, f"{prefix}{name}.")
        else:
            lines[prefix + name] = value
    return lines


def text(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return " … ".join(map(text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def cells(columns: dict[str, dict]) -> list[list[str]]:
    """Figures by name of bundle, side by side, a line each; of three and more also their mean and range. Peers have few
    of the figures and do not count in these."""
    values = {name: rows(figures) for name, figures in columns.items()}
    labels = list(dict.fromkeys(label for column in values.values() for label in column))
    texts = {name: {label: text(value) for label, value in column.items()} for name, column in values.items()}
    ours = [column for column in values.values() if len(column) == len(labels)]
    if len(ours) > 2:
        numbers = {label: [column[label] for column in ours] for label in labels}
        numbers = {label: n for label, n in numbers.items() if all(isinstance(x, (int, float)) for x in n)}
        texts["mean"] = {label: text(float(np.mean(n))) for label, n in numbers.items()}  # type: ignore[arg-type]
        texts["range"] = {label: text((min(n), max(n))) for label, n in numbers.items()}  # type: ignore[type-var]
    return [["", *texts], *([label, *(column.get(label, "") for column in texts.values())] for label in labels)]


def table(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edge_demo.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="+", help="folder of a bundle")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    parser.add_argument("--model", help="model.onnx or model.int8.onnx (default: the bundle's own choice)")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="more folders of recordings without the word")
    parser.add_argument(
        "--wanted",
        type=float,
        metavar="RATE",
        help="choose the threshold that makes at most RATE false accepts per hour of continuous/ and of --also, and "
        "write it into the bundle",
    )
    parser.add_argument("--peers", metavar="PYTHON", help="also microWakeWord's models, which this Python has")
    parser.add_argument("--out", type=Path, help="folder of figures and report (default: the first bundle)")
    args = parser.parse_args()
    columns, curves = {}, {}
    try:
        base = data.root(args.data)
        for bundle in args.bundle:
            engine, label = Engine(bundle, args.model), Path(bundle).name
            for keyword, word in enumerate(engine.keywords):
                name = f"{label}:{word}"
                columns[name], curves[name], _ = evaluate(engine, base, keyword, args.also, args.wanted)
                columns[name] |= track_figures(engine, load(base, word), keyword, columns[name]["threshold"])
            if args.wanted is not None:
                set_thresholds(Path(bundle), [columns[f"{label}:{word}"]["threshold"] for word in engine.keywords])
        if args.peers:
            columns |= peer_figures(args.peers, negative_streams(load(base, engine.keywords[0]), args.also))
        out = args.out or Path(args.bundle[0])
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(columns, indent=1) + "\n")
        draw(columns, curves, out / "evaluation.png")
        put_into_report(out / "report.md", columns, "evaluation.png")
    except (BundleError, data.DataError, OSError) as error:
        print(f"evaluate: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(table(cells(columns)))
    print(f"figures: {out}/evaluation.json; pictures and table: {out}/report.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
