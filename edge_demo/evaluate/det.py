"""The curve of misses against false accepts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_demo.evaluate.false_accepts import Alarms
from edge_demo.evaluate.misses import Hits


@dataclass(frozen=True)
class Det:
    """Misses in clean streams against false accepts per hour, at many thresholds and at the operating point."""

    stream: str
    hours: float
    per_hour: np.ndarray
    misses: np.ndarray
    at: tuple[float, float]  # (false accepts per hour, share of misses) at the bundle's threshold


def det_curve(hits: Hits, alarms: Alarms, threshold: float) -> Det:
    thresholds = 1 / (1 + np.exp(-np.linspace(-4, 9, 200)))
    misses = np.array([1 - hits.detected(t).mean() for t in [*thresholds, threshold]])
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
