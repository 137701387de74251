"""Measure systems, each in a process of its own (systems.py), in turn."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from edge_demo.bench.systems import HOP

SYSTEMS = Path(__file__).with_name("systems.py")
RATE = 16_000
ROUNDS, BURST = 30, 100  # hops that each system steps in a round; one more round before them warms up
STARTS = 7  # of each system, in turn
MANY = 100_000  # hops of the test for ageing


@dataclass
class System:
    """A line of the table, with its measurements."""

    name: str
    command: list[str]
    installs: tuple[str, ...]  # distributions that it needs
    starts: list[float] = field(default_factory=list)  # seconds to the first score
    wall: list[list[float]] = field(default_factory=list)  # rounds of microseconds of each hop
    cpu: list[float] = field(default_factory=list)  # rounds of CPU microseconds per hop
    peak_mb: float = 0.0

    def cpu_ms(self) -> float:
        """CPU milliseconds per second of audio."""
        return median(self.cpu) * RATE / HOP / 1000

    def ratio(self, other: "System") -> float:
        """CPU of this one over the other's."""
        return median(a / b for a, b in zip(self.cpu, other.cpu, strict=True))


class Process:
    """A running system."""

    def __init__(self, system: System, hops: str):
        before = time.perf_counter()
        self.child = subprocess.Popen(
            [*system.command, hops], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.system = system
        first = self.read()
        system.starts.append(time.perf_counter() - before)
        system.peak_mb = max(system.peak_mb, first["peak_mb"])

    def read(self) -> dict[str, Any]:
        assert self.child.stdout and self.child.stderr
        line = self.child.stdout.readline()
        if not line:
            lines = self.child.stderr.read().strip().splitlines() or ["it ended"]
            raise SystemExit(f"bench: error: {self.system.name}: {lines[-1]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def step(self, count: int) -> dict[str, Any]:
        assert self.child.stdin
        print(count, file=self.child.stdin, flush=True)
        return self.read()

    def measure(self, count: int) -> None:
        answer = self.step(count)
        self.system.wall.append([ns / 1000 for ns in answer["wall_ns"]])
        self.system.cpu.append(answer["cpu_ns"] / count / 1000)
        self.system.peak_mb = max(self.system.peak_mb, answer["peak_mb"])

    def end(self) -> None:
        self.child.communicate()


def race(systems: list[System], hops: str) -> None:
    """Measure every system, in turn."""
    for _ in range(STARTS - 1):
        for system in systems:
            Process(system, hops).end()
    processes = [Process(system, hops) for system in systems]
    for process in processes:
        process.step(BURST)
    for number in range(ROUNDS):
        progress(f"round {number + 1} of {ROUNDS}", end="\r")
        for process in processes:
            process.measure(BURST)
    for process in processes:
        process.end()


def ageing(bundle: Path, hops: str) -> str:
    """Compare a process that has stepped `MANY` hops with a fresh one: time, CPU, memory."""
    model = default_model(bundle)
    old, new = (System(age, worker(sys.executable, "engine", model), ()) for age in ("old", "new"))
    progress(f"{bundle.name}: {MANY} hops")
    aged, fresh = Process(old, hops), Process(new, hops)
    first = aged.step(1000)
    last = [aged.step(1000) for _ in range(MANY // 1000 - 1)][-1]
    for _ in range(ROUNDS):
        aged.measure(BURST)
        fresh.measure(BURST)
    aged.end()
    fresh.end()
    medians = [median(answer["wall_ns"]) / 1000 for answer in (first, last)]
    grown = last["rss_mb"] - first["rss_mb"]
    return (
        f"of {MANY} hops the first thousand took {medians[0]:.1f} µs, the last {medians[1]:.1f} (medians); beside a "
        f"fresh process, in turn, {old.ratio(new):.3f} × its CPU; memory grew by {grown:.2f} MB"
    )


def default_model(bundle: Path) -> Path:
    """The bundle's default file. Raises OSError, ValueError, KeyError, TypeError for a wrong manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    if manifest["hop_samples"] != HOP:
        raise ValueError("hop_samples")
    return bundle / str(manifest["default_model"])


def worker(python: str, system: str, path: str | Path = "") -> list[str]:
    return [python, "-W", "ignore", str(SYSTEMS), system, str(path)]


def progress(line: str, end: str = "\n") -> None:
    print(line, end=end, file=sys.stderr, flush=True)
