"""Days of audio, faster than real time, through the whole listener: a test for drift, leaks and lost hops.

    make soak                                    # 24 hours of audio
    python -m edge_demo.bench.soak dist/happy-ensemble --hours 2

Feeds the process listen.py with hours of speech (EARSHOT_DATA/continuous, else tests/fixtures), noise, silence, minutes
of digital zeros, clipped and very quiet audio, drawn anew each hour. Every hour ends with a probe: the same ten seconds
and the bundle's keywords.wav. A model's state may hold more than ten seconds, and then the probe's scores depend on the
audio before it. So the last hour repeats the first, and any difference between these two is drift. Exit code 1 unless
every hop of the probe scores within 0.01 of the first hour's in the last, memory grows by less than 1 MB, and every hop
was processed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

from edge_demo.bench.systems import HOP, as_pcm
from runtime.audio.hops import AudioError, wav_hops

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
RATE = 16_000
HOUR = 3600 * RATE // HOP  # hops
DRIFT, GROWTH = 0.01, 1.0  # bounds: of a score, and MB


def wav(path: Path) -> np.ndarray:
    return np.concatenate(list(wav_hops(str(path), HOP, lambda text: None)))


def speech() -> np.ndarray:
    """Half an hour, or all there is."""
    folder = Path(os.environ.get("EARSHOT_DATA", "/nowhere")) / "continuous"
    if folder.is_dir():
        from training.data import recordings as data

        return data.to_float(np.concatenate(data.read_all(data.find(folder.parent, ["continuous"]), "speech")))
    return np.concatenate([np.pad(wav(path), (0, RATE // 2)) for path in sorted(FIXTURES.glob("*.wav"))])


def programme(talk: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One hour (samples,), float32."""
    minute = 60 * RATE

    def some_talk() -> np.ndarray:
        start = int(rng.integers(len(talk)))
        return np.resize(np.roll(talk, -start), minute)

    kinds = [
        some_talk,
        lambda: some_talk() * 0.01,
        lambda: np.clip(some_talk() * 30, -1, 1),
        lambda: rng.standard_normal(minute) * 10 ** rng.uniform(-4, -0.7),
        lambda: some_talk() + rng.standard_normal(minute) * 0.02,
        lambda: rng.standard_normal(minute) * 3e-5,
    ]
    minutes = [kinds[int(rng.integers(len(kinds)))]() for _ in range(51)]
    place = int(rng.integers(51))
    minutes[place:place] = [np.zeros(9 * minute)]  # nine minutes of digital zeros
    return np.concatenate(minutes).astype(np.float32)


def probe(bundle: Path) -> np.ndarray:
    """Ten seconds of low noise and the bundle's keywords.wav, the same each time, in whole hops."""
    clip = wav(bundle / "keywords.wav")
    lead = np.random.default_rng(0).standard_normal(10 * RATE).astype(np.float32) * 1e-3
    joined = np.concatenate([lead, clip, lead[: RATE // 2]])
    return joined[: len(joined) // HOP * HOP]


class Run:
    """listen.py with a dashboard, which serves scores and counters."""

    def __init__(self, bundle: str, folder: str) -> None:
        command = [sys.executable, str(ROOT / "runtime" / "listen.py"), bundle, "--stdin"]
        command += ["--dashboard", "127.0.0.1:0", "--save-on-detect", folder, "--save-megabytes", "5"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lines: list[dict] = []
        self._ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self._ready.wait(30):
            raise RuntimeError("the listener did not start")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.lines.append(json.loads(text))
            if self.lines[-1].get("event") == "dashboard":
                self.port = self.lines[-1]["port"]
                self._ready.set()

    def feed(self, samples: np.ndarray) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(as_pcm(samples))
        self.process.stdin.flush()

    def state(self) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/state?after=0", timeout=30) as answer:
            return json.load(answer)

    def settled(self, hops: int) -> dict:
        """The state once so many hops are processed."""
        while (state := self.state())["counters"]["hops"] < hops:
            if self.process.poll() is not None:
                raise RuntimeError("the listener ended")
            time.sleep(0.02)
        return state

    def memory(self) -> float:
        """Anonymous memory of the process in MB, without mapped files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e6

    def end(self) -> dict:
        """The last line, which sums up the run."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        time.sleep(0.2)
        return self.lines[-1]


def soak(bundle: str, hours: int) -> int:
    talk, probe_audio = speech(), probe(Path(bundle))
    clip_hops = -(-len(probe_audio[10 * RATE :]) // HOP)
    scores: list[np.ndarray] = []  # of the probe's clip, each hour
    memory: list[float] = []
    fed, start = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(bundle, folder)
        for hour in range(hours):
            audio = programme(talk, np.random.default_rng(hour if hour < hours - 1 else 0))
            audio = audio[: (HOUR - len(probe_audio) // HOP) * HOP]
            for part in (audio, probe_audio):
                run.feed(part)
                fed += len(part) // HOP
            state = run.settled(fed)
            scores.append(np.array([hop["scores"] for hop in state["hops"][-clip_hops:]]))
            memory.append(run.memory())
            counters = state["counters"]
            print(
                f"hour {hour + 1:3}: probe's highest score {scores[-1].max():.4f}, "
                f"differs by {difference(scores[-1], scores[0]):.4f}; {memory[-1]:.2f} MB; "
                f"{counters['hops']} of {fed} hops; {counters['detections']} detections",
                flush=True,
            )
        summary = run.end()
    highest = [one.max() for one in scores]
    between, spread = max(difference(one, scores[0]) for one in scores), max(highest) - min(highest)
    print(f"the probe's scores differ by up to {between:.4f} with the audio before it, its highest by {spread:.4f}")
    print(f"{hours} hours of audio in {(time.monotonic() - start) / 60:.1f} minutes")
    return judge(difference(scores[-1], scores[0]), memory[-1] - memory[0], fed, summary)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def judge(drift: float, growth: float, fed: int, summary: dict) -> int:
    """Print each bound and whether it holds; 0 if all do."""
    # The first hour fills caches and the last ten seconds that are kept. Growth after that would go on for ever.
    checks = [
        (f"the probe's scores differ by {drift:.4f} between first and last hour (bound {DRIFT})", drift <= DRIFT),
        (f"memory grew by {growth:.2f} MB since the first hour (bound {GROWTH})", growth < GROWTH),
        (f"{summary.get('hops')} hops of {fed} were processed", summary.get("hops") == fed),
        (f"no event but of the dashboard: {summary.get('events')}", set(summary.get("events", "?")) <= {"dashboard"}),
    ]
    for line, passed in checks:
        print("good:" if passed else "BAD: ", line)
    return 0 if all(passed for _, passed in checks) else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edge_demo.bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="?", default="dist/happy-ensemble", help="default: dist/happy-ensemble")
    parser.add_argument("--hours", type=int, default=24, help="of audio (default: 24)")
    args = parser.parse_args()
    if args.hours < 1:
        parser.error("--hours must be at least 1")
    try:
        return soak(args.bundle, args.hours)
    except (RuntimeError, AudioError, OSError) as error:
        print(f"soak: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
