"""Days of audio as fast as it goes, through the whole listener: does anything drift, grow or get lost?

    make soak                                    # 24 hours of audio
    python -m edge_demo.bench.soak dist/happy-ensemble --hours 2

Feeds listen.py, as a process, an hour's programme again and again: speech (EARSHOT_DATA/continuous, else
tests/fixtures), noise, silence, minutes of digital zeros, clipped and very quiet audio, drawn anew each hour. Every
hour ends with a probe: the same ten seconds and the bundle's keywords.wav. A model may well remember for longer than
ten seconds, and its scores then tell what it heard before; so the last hour repeats the first, and what differs then is
drift. Exit code 1 unless every hop of the probe scores within 0.01 of the first hour's in the last, memory grows by
less than 1 MB, and every hop fed was processed.
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

from runtime.audio.hops import AudioError, wav_hops

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
RATE, HOP = 16_000, 1280
HOUR = 3600 * RATE // HOP  # hops
DRIFT, GROWTH = 0.01, 1.0  # bounds: of a score, and MB


def pcm(samples: np.ndarray) -> bytes:
    return np.clip(np.round(samples * 32768), -32768, 32767).astype("<i2").tobytes()


def wav(path: Path) -> np.ndarray:
    return np.concatenate(list(wav_hops(str(path), HOP, lambda text: None)))


def speech() -> np.ndarray:
    """Half an hour or what there is."""
    folder = Path(os.environ.get("EARSHOT_DATA", "/nowhere")) / "continuous"
    if folder.is_dir():
        from training.data import recordings as data

        return data.to_float(np.concatenate(data.read_all(data.find(folder.parent, ["continuous"]), "speech")))
    return np.concatenate([np.pad(wav(path), (0, RATE // 2)) for path in sorted(FIXTURES.glob("*.wav"))])


def programme(talk: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One hour less what the probe takes, as hops: (n, HOP) float32."""
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
    minutes[place:place] = [np.zeros(9 * minute)]  # long digital zeros
    return np.concatenate(minutes).astype(np.float32)


def probe(bundle: Path) -> np.ndarray:
    """Ten seconds of low noise and what the model takes for its keywords, the same each time, in whole hops."""
    clip = wav(bundle / "keywords.wav")
    lead = np.random.default_rng(0).standard_normal(10 * RATE).astype(np.float32) * 1e-3
    joined = np.concatenate([lead, clip, lead[: RATE // 2]])
    return joined[: len(joined) // HOP * HOP]


class Run:
    """listen.py with a dashboard, whose state tells the scores and counters."""

    def __init__(self, bundle: str, folder: str) -> None:
        command = [sys.executable, str(ROOT / "runtime" / "listen.py"), bundle, "--stdin", "--dashboard", "127.0.0.1:0",
                   "--save-on-detect", folder, "--save-megabytes", "5"]
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
        self.process.stdin.write(pcm(samples))
        self.process.stdin.flush()

    def state(self) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/state?after=0", timeout=30) as answer:
            return json.load(answer)

    def settled(self, hops: int) -> dict:
        """The state once so many hops were processed."""
        while (state := self.state())["counters"]["hops"] < hops:
            if self.process.poll() is not None:
                raise RuntimeError("the listener ended")
            time.sleep(0.02)
        return state

    def memory(self) -> float:
        """Anonymous memory of the process in MB: what it has made, not what it has mapped."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e6


def soak(bundle: str, hours: int) -> int:
    talk, asked = speech(), probe(Path(bundle))
    shown = -(-len(asked[10 * RATE :]) // HOP)  # hops of the clip itself
    first: np.ndarray | None = None
    memory: list[float] = []
    highest: list[float] = []
    drift = between = 0.0
    fed, start = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(bundle, folder)
        for hour in range(hours):
            audio = programme(talk, np.random.default_rng(hour if hour < hours - 1 else 0))
            audio = audio[: (HOUR - len(asked) // HOP) * HOP]
            for part in (audio, asked):
                run.feed(part)
                fed += len(part) // HOP
            state = run.settled(fed)
            scores = np.array([hop["scores"] for hop in state["hops"][-shown:]])
            if first is None:
                first = scores
            drift = float(np.abs(scores - first).max())
            between = max(between, drift)
            highest.append(float(scores.max()))
            memory.append(run.memory())
            print(f"hour {hour + 1:3}: probe's highest score {scores.max():.4f}, differs by {drift:.4f}; "
                  f"{memory[-1]:.2f} MB; {state['counters']['hops']} of {fed} hops; "
                  f"{state['counters']['detections']} detections", flush=True)
        run.process.send_signal(signal.SIGTERM)
        run.process.wait(10)
        time.sleep(0.2)
        summary = run.lines[-1]
    # The first hour fills caches and the deque of the last ten seconds; what grows after that would grow for a year.
    spread = max(highest) - min(highest)
    growth = memory[-1] - memory[0]
    good = {
        f"the probe's scores differ by at most {drift:.4f} between first and last hour (bound {DRIFT})": drift <= DRIFT,
        f"memory grew by {growth:.2f} MB since the first hour (bound {GROWTH})": growth < GROWTH,
        f"{summary.get('hops')} hops of {fed} were processed": summary.get("hops") == fed,
        f"no event but of the dashboard: {summary.get('events')}": set(summary.get("events", "?")) <= {"dashboard"},
    }
    print(f"the probe's scores differ by up to {between:.4f} with what was heard before, its highest by {spread:.4f}")
    print(f"{hours} hours of audio in {(time.monotonic() - start) / 60:.1f} minutes")
    for line, passed in good.items():
        print("good:" if passed else "BAD: ", line)
    return 0 if all(good.values()) else 1


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
