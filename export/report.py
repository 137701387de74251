"""report.md, a description of a bundle for people: files, agreement with the trained model, step times, precision."""

import platform
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from matplotlib.figure import Figure

from export.detector import Detector
from export.forms.onnx import WITH_WEIGHTS
from export.int8.quantize import FRONT_END
from export.verify import TOLERANCES, Array, Parity, one_thread_session

COLOURS = {
    "model.onnx": "#1f77b4",
    "model.torchscript": "#2ca02c",
    "model.int8.onnx": "#d62728",
    "model.bin": "#9467bd",
    "model.int8.bin": "#ff7f0e",
}

NOT_THE_NETWORK = "front end: its matrices are computed by a graph of 3 KB; as int8 weights they would take 96 KB"


def write_report(
    folder: Path,
    detector: Detector,
    measured: dict[str, Any],
    reference: Array,
    parity: dict[str, Parity],
    floats: dict[str, str],
) -> None:
    """Write report.md, scores.png and times.png beside the models.

    reference: offline scores (hops, keywords); floats: nodes of the network that stay float, and why.
    """
    draw_scores(folder / "scores.png", detector, reference, parity)
    draw_times(folder / "times.png", measured["step_us"])
    text = "\n\n".join(
        [
            f"# {detector.name}",
            summary(detector, measured),
            files_table(folder, measured),
            "![score over time, and how far each form is from the trained model](scores.png)",
            "![microseconds per step](times.png)",
            "## What runs",
            nodes_table(folder),
            "## What became int8",
            candidates_table(measured["int8"]),
            precision_table(folder, floats),
        ]
    )
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")


def summary(detector: Detector, measured: dict[str, Any]) -> str:
    thresholds = ", ".join(f"“{k}” at {t:g}" for k, t in zip(detector.keywords, detector.thresholds, strict=True))
    hop_ms = 1000 * detector.hop_samples / detector.sample_rate
    return (
        f"Keywords and thresholds: {thresholds}. {measured['parameters']:,} parameters, one step per {hop_ms:g} ms. "
        f"Verified hop by hop over {measured['audio_seconds']:.1f} s of synthetic speech, noise, silence and sounds "
        f"that the model takes for its keywords, against the trained model run over all of it at once, and again after "
        f"a reset. Default: `{measured['default_model']}`.\n\n"
        f"Made with torch {torch.__version__} and onnxruntime {onnxruntime.__version__}, one thread, on {machine()}."
    )


def machine() -> str:
    """The CPU's name, on Linux; else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def files_table(folder: Path, measured: dict[str, Any]) -> str:
    rows = ["| file | KiB | largest difference | mean | allowed | µs per step |", "|---|--:|--:|--:|--:|--:|"]
    for name, parity in measured["parity"].items():
        size, time = (folder / name).stat().st_size / 1024, measured["step_us"][name]
        allowed = f"{parity['allowed_largest']:g}, {parity['allowed_mean']:g}"
        rows.append(f"| {name} | {size:.1f} | {parity['largest']:.2g} | {parity['mean']:.2g} | {allowed} | {time:g} |")
    rows.append(f"| (torch eager) | | | | | {measured['step_us']['torch eager']:g} |")
    return "\n".join(rows)


def nodes_table(folder: Path) -> str:
    """Operations that a step runs, after onnxruntime's own optimizations on this machine."""
    counts = {name: executed_operations(folder / name) for name in ("model.onnx", "model.int8.onnx")}
    rows = ["| operation | model.onnx | model.int8.onnx |", "|---|--:|--:|"]
    rows.append("| **all** | " + " | ".join(f"**{count.total()}**" for count in counts.values()) + " |")
    for operation in sorted(set().union(*counts.values())):
        rows.append(f"| {operation} | " + " | ".join(str(count[operation] or "") for count in counts.values()) + " |")
    return "\n".join(rows)


def executed_operations(path: Path) -> Counter[str]:
    with tempfile.TemporaryDirectory() as scratch:
        optimized = Path(scratch) / "optimized.onnx"
        one_thread_session(path, optimized)
        return Counter(node.op_type for node in onnx.load(optimized).graph.node)


def candidates_table(int8: dict[str, Any]) -> str:
    """The chosen form, the rule, and the figures of all candidates."""
    exact = "Weights and activations are unsigned: the sums are the same on every CPU."
    if "candidates" not in int8:
        return (
            f"Chosen: {int8['chosen']}, by the rule for a checkpoint without int8.json, which "
            f"`python -m export.int8.measure` makes from recordings. {exact}"
        )
    rows = [
        "| | KiB | float nodes | largest difference | mean | more misses, points | mean difference there |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, trial in int8["candidates"].items():
        mark = "**" if name == int8["chosen"] else ""
        cells = [
            f"{mark}{name}{mark}",
            f"{trial['bytes'] / 1024:.1f}",
            str(len(trial["left_float"])),
            f"{trial['largest']:.2g}",
            f"{trial['mean']:.2g}",
            f"{100 * trial['more_misses']:+.2f}",
            f"{trial['mean_difference']:.2g}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return (
        f"Calibrated on {int8['calibrated_on']}; misses and last column on {int8['measured_on']} "
        "(`python -m export.int8.measure`, kept in the checkpoint's int8.json). Bold: the chosen one. The rule: of "
        "those that agree and miss no more clips than float, those at most a tenth larger than the smallest; of these, "
        f"the nearest to float. {exact}\n\n" + "\n".join(rows)
    )


def precision_table(folder: Path, floats: dict[str, str]) -> str:
    rows = ["| node | in model.int8.onnx | why not int8 |", "|---|---|---|"]
    for node in onnx.load(folder / "model.onnx").graph.node:
        if node.op_type not in WITH_WEIGHTS:
            continue
        reason = NOT_THE_NETWORK if node.name.startswith(FRONT_END) else floats.get(node.name, "")
        rows.append(f"| {node.name} | {'float' if reason else 'int8'} | {reason} |")
    return "\n".join(rows)


def draw_scores(path: Path, detector: Detector, reference: Array, parity: dict[str, Parity]) -> None:
    seconds = np.arange(1, len(reference) + 1) * detector.hop_samples / detector.sample_rate
    figure = Figure(figsize=(10, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for index, keyword in enumerate(detector.keywords):
        above.plot(seconds, reference[:, index], linewidth=3, alpha=0.3, color="black", label=f"{keyword}: PyTorch")
        for name, one in parity.items():
            above.plot(seconds, one.scores[:, index], linewidth=0.8, color=COLOURS[name], label=f"{keyword}: {name}")
        above.axhline(detector.thresholds[index], linestyle=":", color="grey", linewidth=1)
    above.set(ylabel="score", ylim=(-0.02, 1.02))
    above.legend(fontsize="small", loc="upper left")
    for name, one in parity.items():
        difference = np.maximum(np.abs(one.scores - reference).max(axis=1), 1e-9)
        below.semilogy(seconds, difference, linewidth=0.8, color=COLOURS[name], label=name)
        below.axhline(TOLERANCES[name].largest, linestyle="--", color=COLOURS[name], linewidth=0.8)
    below.set(ylabel="difference (dashed: allowed)", xlabel="seconds of verification audio", xlim=(0, seconds[-1]))
    figure.savefig(path, dpi=110)


def draw_times(path: Path, step_us: dict[str, float]) -> None:
    figure = Figure(figsize=(10, 2.4), layout="constrained")
    axes = figure.subplots()
    names = list(step_us)[::-1]
    bars = axes.barh(names, [step_us[name] for name in names], color=[COLOURS.get(n, "grey") for n in names])
    axes.bar_label(bars, fmt="%.0f µs", padding=3)
    axes.set(xlabel="median time of one step, one thread", xlim=(0, 1.15 * max(step_us.values())))
    figure.savefig(path, dpi=110)
