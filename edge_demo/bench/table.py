"""Results of the bench: a table in Markdown, ratios in words, and a picture."""

import subprocess
from pathlib import Path
from statistics import median

import numpy as np

from edge_demo.bench.race import RATE, System, default_model
from edge_demo.bench.systems import HOP

PEERS = "pymicro-wakeword", "pyopen-wakeword"


def table(systems: list[System], peers: str | None) -> str:
    """Markdown. Ratios are of CPU."""
    heads = ["", "µs per hop: median", "95 %", "99 %", "CPU ms per s", "RTF", "peak MB", "start s", "installed MB"]
    heads += ["÷ onnxruntime float", *(["÷ best peer"] if peers else [])]
    installed: dict[tuple[str, tuple[str, ...]], float] = {}
    rows = []
    for system in systems:
        environment = system.command[0], system.installs
        installed[environment] = installed.get(environment) or install_mb(*environment)
        hops = np.concatenate(system.wall)
        middle, late, latest = np.percentile(hops, (50, 95, 99))
        floats = [s for s in systems if s.name == f"{system.name.split(':')[0]}: onnxruntime float"] or systems
        row = [system.name, f"{middle:.0f}", f"{late:.0f}", f"{latest:.0f}", f"{system.cpu_ms():.2f}"]
        row += [f"{np.median(np.mean(system.wall, axis=1)) / (1e6 * HOP / RATE):.5f}", f"{system.peak_mb:.1f}"]
        row += [f"{median(system.starts):.2f}", f"{installed[environment]:.0f}"]
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
    """The default model's CPU over the others', and the cost of a second keyword."""
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
names, seen, size = sys.argv[1:], set(), 0
while names:
    name = re.sub("[-_.]+", "-", names.pop()).lower()
    if name in seen:
        continue
    seen.add(name)
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue  # for another system or Python
    size += sum(path.stat().st_size for file in package.files or [] if (path := file.locate()).is_file())
    names += [re.match(r"[\\w.-]+", need)[0] for need in package.requires or [] if "extra ==" not in need]
print(size)
"""
    return int(subprocess.run([python, "-c", script, *names], check=True, capture_output=True).stdout) / 1e6


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
