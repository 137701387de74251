"""What a bundle costs on this machine, beside torch and beside what one would use instead.

    python edge_demo/bench dist/happy-ensemble       # on the device: the runtime's requirements are enough
    make bench                                       # all shipped models, torch too
    PEERS=1 make bench                               # pymicro-wakeword and pyopen-wakeword too

Every system runs in a process of its own (`systems.py`), all on one CPU and in turn: a round gives each the
same hops from memory, so that a busy machine slows all alike. A ratio is the median of the rounds' ratios. Torch
systems run where torch is importable and the checkpoint `models/<name>` is at hand; peers from the environment of
their own that `--peers` names. Audio: clips of Speech Commands where EARSHOT_DATA is set and soundfile is installed,
else noise; what is heard does not change the cost.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = Path(__file__).with_name("systems.py")
HOP, RATE = 1280, 16_000
HOPS = 200  # in memory, of audio: 16 s, 1 MB in every process
ROUNDS, BURST = 30, 100  # hops that each system steps in a round; one more round before them warms up
STARTS = 7  # of each system, in turn
MANY = 100_000  # hops, after which a step must cost what it cost
PEERS = "pymicro-wakeword", "pyopen-wakeword"


@dataclass
class System:
    """One line of the table, and what was measured of it."""

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
        """CPU of this one, of the other's."""
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
            told = self.child.stderr.read().strip().splitlines() or ["it ended"]
            raise SystemExit(f"bench: error: {self.system.name}: {told[-1]}")
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


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python edge_demo/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="folder with manifest.json and the models")
    parser.add_argument("--peers", metavar="PYTHON", help="of an environment with pymicro-wakeword and pyopen-wakeword")
    parser.add_argument("--plot", metavar="FILE", help="draw latencies and costs (needs matplotlib)")
    options = parser.parse_args()
    if options.plot and not find_spec("matplotlib"):
        return fail("--plot needs matplotlib: pip install matplotlib")
    if options.peers and not shutil.which(options.peers):
        return fail(f"--peers {options.peers}: no such program: name an environment's bin/python")
    bundles = [Path(bundle).resolve() for bundle in options.bundles]
    for bundle in bundles:
        try:
            default_model(bundle)
        except (OSError, ValueError, KeyError, TypeError):
            return fail(f"{bundle} is no bundle of {HOP} samples per step: name a folder that an export made")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # children inherit it: one CPU, one thread for all

    with tempfile.TemporaryDirectory() as scratch:
        hops = os.path.join(scratch, "hops.f32")
        heard = write_audio(Path(hops))
        systems = [one for bundle in bundles for one in of_bundle(bundle, Path(scratch))]
        if options.peers:
            systems += [System(peer, worker(options.peers, peer), (peer,)) for peer in PEERS]
        progress(f"{machine()}; {heard}; {BURST} hops × {ROUNDS} rounds after one to warm up, {STARTS} starts")
        race(systems, hops)
        print(f"\n{machine()}, Python {platform.python_version()}; {heard}.\n")
        print(table(systems, options.peers))
        print()
        for bundle in bundles:
            print("\n".join(f"- {line}" for line in ratios(bundle, systems)))
        for bundle in bundles:
            print(f"- {bundle.name}: {ageing(bundle, hops)}")
    if options.plot:
        draw(systems, options.plot)
    return 0


def fail(mistake: str) -> int:
    print(f"bench: error: {mistake}", file=sys.stderr)
    return 2


def of_bundle(bundle: Path, scratch: Path) -> list[System]:
    """All that can be measured of a bundle here."""
    name, ours = bundle.name, ("numpy", "onnxruntime")
    model = default_model(bundle)
    systems = [
        System(f"{name}: onnxruntime {kind}", worker(sys.executable, "engine", bundle / file), ours)
        for kind, file in (("float", "model.onnx"), ("int8", "model.int8.onnx"))
    ]
    twice = worker(sys.executable, "engine", f"{model}:{model}")
    systems.append(System(f"{name}: two bundles, one process", twice, ours))
    if not find_spec("torch"):
        return systems
    if (bundle / "model.torchscript").is_file():
        systems.append(System(f"{name}: TorchScript", worker(sys.executable, "torchscript", bundle), ("torch",)))
    checkpoint = ROOT / "models" / name
    if checkpoint.is_dir():
        int8, pair = scratch / f"{name}-int8", scratch / f"{name}-pair"
        int8.mkdir()
        run(worker(sys.executable, "save-torchscript-int8", checkpoint), int8)
        systems.append(System(f"{name}: TorchScript int8", worker(sys.executable, "torchscript", int8), ("torch",)))
        systems.append(System(f"{name}: torch eager", worker(sys.executable, "torch-eager", checkpoint), ("torch",)))
        run(worker(sys.executable, "save-two-keywords", checkpoint), pair)
        run([sys.executable, "-m", "export", str(pair), "--out"], scratch)
        two = worker(sys.executable, "engine", scratch / pair.name / model.name)
        systems.append(System(f"{name}: one model, two keywords", two, ours))
    return systems


def default_model(bundle: Path) -> Path:
    """The file that a listener would take. Raises what a manifest can be wrong in."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    if manifest["hop_samples"] != HOP:
        raise ValueError("other hops than everybody's")
    return bundle / str(manifest["default_model"])


def worker(python: str, system: str, path: str | Path = "") -> list[str]:
    return [python, "-W", "ignore", str(SYSTEMS), system, str(path)]


def run(command: list[str], last: Path) -> None:
    """Prepare something, quietly."""
    done = subprocess.run([*command, str(last)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: error: {' '.join(command)}: {(done.stderr.strip().splitlines() or [''])[-1]}")


def race(systems: list[System], hops: str) -> None:
    """Fill in what is measured, every system in its turn."""
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
    """A process that has stepped `MANY` hops beside one that has not, in turn; and its memory then and now."""
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


def table(systems: list[System], peers: str | None) -> str:
    """In Markdown. Ratios are of CPU."""
    heads = ["", "µs per hop: median", "95 %", "99 %", "CPU ms per s", "RTF", "peak MB", "start s", "installed MB"]
    heads += ["÷ onnxruntime float", *(["÷ best peer"] if peers else [])]
    installed: dict[tuple[str, tuple[str, ...]], float] = {}
    rows = []
    for system in systems:
        needs = system.command[0], system.installs
        installed[needs] = installed.get(needs) or install_mb(*needs)
        hops = np.concatenate(system.wall)
        middle, late, latest = np.percentile(hops, (50, 95, 99))
        floats = [s for s in systems if s.name == f"{system.name.split(':')[0]}: onnxruntime float"] or systems
        row = [system.name, f"{middle:.0f}", f"{late:.0f}", f"{latest:.0f}", f"{system.cpu_ms():.2f}"]
        row += [f"{np.median(np.mean(system.wall, axis=1)) / (1e6 * HOP / RATE):.5f}", f"{system.peak_mb:.1f}"]
        row += [f"{median(system.starts):.2f}", f"{installed[needs]:.0f}"]
        row += [f"{system.ratio(floats[0]):.2f}"]
        row += [f"{system.ratio(best_peer(systems)):.2f}"] if peers else []
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    rows = [heads, [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])], *rows]
    cells = [[f"{cell:{'<' if n == 0 else '>'}{widths[n]}}" for n, cell in enumerate(row)] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def best_peer(systems: list[System]) -> System:
    return min((system for system in systems if system.name in PEERS), key=System.cpu_ms)


def ratios(bundle: Path, systems: list[System]) -> list[str]:
    """What the default model's CPU is of the others', and what a second keyword adds."""
    named, name = {system.name: system for system in systems}, bundle.name
    default = named[f"{name}: onnxruntime {'int8' if 'int8' in default_model(bundle).name else 'float'}"]
    others = [*PEERS, f"{name}: TorchScript", f"{name}: TorchScript int8", f"{name}: torch eager"]
    parts = [f"{r:.3f} (1/{1 / r:.1f}) of {o}" for o in others if o in named and (r := default.ratio(named[o]))]
    lines = [f"CPU of {default.name}: {', '.join(parts)}"] if parts else []
    for second in ("two bundles, one process", "one model, two keywords"):
        if other := named.get(f"{name}: {second}"):
            more = other.peak_mb - default.peak_mb
            lines.append(f"{other.name}: {other.ratio(default):.2f} × the CPU of one keyword, {more:+.1f} MB")
    return lines


def install_mb(python: str, names: tuple[str, ...]) -> float:
    """Size on disk of distributions and all that they require, in an interpreter's environment."""
    script = """
import importlib.metadata as metadata, re, sys
wanted, seen, size = sys.argv[1:], set(), 0
while wanted:
    name = re.sub("[-_.]+", "-", wanted.pop()).lower()
    if name in seen:
        continue
    seen.add(name)
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue  # for another system or Python
    size += sum(path.stat().st_size for file in found.files or [] if (path := file.locate()).is_file())
    wanted += [re.match(r"[\\w.-]+", need)[0] for need in found.requires or [] if "extra ==" not in need]
print(size)
"""
    return int(subprocess.run([python, "-c", script, *names], check=True, capture_output=True).stdout) / 1e6


def write_audio(path: Path) -> str:
    """`HOPS` hops for everybody → what they are."""
    audio = np.random.default_rng(0).normal(0, 0.05, HOPS * HOP).astype(np.float32)
    heard = "noise"
    data = os.environ.get("EARSHOT_DATA")
    clips = sorted(Path(data).glob("speech_commands/[!_]*/*.*")) if data and find_spec("soundfile") else []
    if clips:
        import soundfile

        every = max(1, len(clips) // (HOPS * HOP // RATE))  # a clip lasts a second at most
        parts = [soundfile.read(clip, dtype="float32")[0] for clip in clips[::every]]
        audio, heard = np.resize(np.concatenate(parts), HOPS * HOP), f"{len(parts)} clips of Speech Commands"
    audio.tofile(path)
    return f"{HOPS * HOP / RATE:g} s of audio, {heard}"


def machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def progress(line: str, end: str = "\n") -> None:
    print(line, end=end, file=sys.stderr, flush=True)


def draw(systems: list[System], path: str) -> None:
    """Latency distributions and a bar of CPU per system."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 0.5 + 0.42 * len(systems)), layout="constrained")
    latency, cost = figure.subplots(1, 2, sharey=True)
    names = [system.name for system in systems]
    latency.boxplot(
        [np.concatenate(system.wall) for system in systems], orientation="horizontal", whis=(1, 99), showfliers=False
    )
    latency.set(xscale="log", xlabel="µs per hop (box: quartiles, whiskers: 1 % and 99 %)", yticklabels=names)
    bars = cost.barh(range(1, len(names) + 1), [s.cpu_ms() for s in systems], color=[colour(n) for n in names])
    cost.bar_label(bars, fmt="%.2f", padding=3)
    cost.set(xscale="log", xlabel="CPU ms per second of audio, one thread")
    cost.margins(x=0.15)
    latency.invert_yaxis()
    figure.savefig(path, dpi=110)


def colour(name: str) -> str:
    return "C1" if name in PEERS else "C0" if "torch" not in name.lower() else "C7"


if __name__ == "__main__":
    sys.exit(main())
