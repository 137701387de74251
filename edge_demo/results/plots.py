"""Pictures of the results: error and epochs against size and multiplications."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from edge_demo.results.plan import FLOAT
from edge_demo.results.rows import FRR, Row

MARKERS = "os^Dv"  # a form each; a colour for each recipe
PAIRS = [matplotlib.colormaps["tab20"](i) for i in range(20)]  # each colour strong, then pale
COLOURS = PAIRS[::2] + PAIRS[1::2]


def draw(rows: list[Row], out: Path) -> list[str]:
    """Write the pictures beside results.md; returns their names."""
    taught = [row for row in rows if not row.training.alone]
    pictures = {"results-size.png": draw_sizes(taught), "results-error.png": draw_errors(rows)}
    for name, figure in pictures.items():
        figure.savefig(out / name, dpi=110)
    return list(pictures)


def draw_sizes(rows: list[Row]) -> Figure:
    """Size by quantization and by distillation, and size against epochs and multiplications."""
    figure = Figure(figsize=(14, 10), layout="constrained")
    (files, weights), (epochs, macs) = figure.subplots(2, 2)
    plain = [row for row in rows if row.form == FLOAT]
    plain_trainings = [row.training for row in plain]
    kinds = list(dict.fromkeys(row.form for row in rows))
    height = 0.8 / len(kinds)
    for place, kind in enumerate(kinds):
        chosen = [row for row in rows if row.form == kind]
        places = [plain_trainings.index(row.training) + place * height for row in chosen]
        bars = files.barh(places, [row.file_bytes / 1024 for row in chosen], height, label=kind)
        files.bar_label(bars, fmt="%.0f", padding=2, fontsize="x-small")
    files.set_yticks(np.arange(len(plain)) + height * (len(kinds) - 1) / 2, [row.name for row in plain])
    files.set(xlabel="KiB of the file, front end included", title="quantization's effect on size")
    files.margins(x=0.12)  # room for the figures
    files.invert_yaxis()
    files.legend()
    base = plain[0]
    bars = weights.barh([row.name for row in plain], [row.weight_bytes / 1024 for row in plain])
    weights.bar_label(bars, [f"{base.weight_bytes / row.weight_bytes:.1f} × smaller" for row in plain], padding=2)
    weights.set(xscale="log", xlabel="KiB of float weights", title="distillation's effect on size")
    weights.set_xlim(1, base.weight_bytes / 1024 * 8)
    weights.invert_yaxis()
    scatter(epochs, rows, [row.weight_bytes / 1024 for row in rows], [row.epochs for row in rows])
    epochs.set(xscale="log", xlabel="KiB of weights", ylabel="epochs", title="size against epochs")
    scatter(macs, rows, [row.weight_bytes / 1024 for row in rows], [row.macs_per_second / 1000 for row in rows])
    macs.set(xscale="log", yscale="log", xlabel="KiB of weights", title="MACs against size")
    macs.set_ylabel("thousand MACs per second of audio")
    legend(figure, rows)
    return figure


def draw_errors(rows: list[Row]) -> Figure:
    """FRR at 0.5 % FAR against both costs. Line: the Pareto front, models that no cheaper one equals."""
    figure = Figure(figsize=(14, 7.5), layout="constrained")
    errors = [float(np.mean(row.figures[FRR])) * 100 for row in rows]
    sides = figure.subplots(1, 2, sharey=True)
    costs = (
        ("KiB of weights", [row.weight_bytes / 1024 for row in rows]),
        ("thousand MACs per second of audio", [row.macs_per_second / 1000 for row in rows]),
    )
    for axes, (label, values) in zip(sides, costs, strict=True):
        scatter(axes, rows, values, errors)
        for row, value in zip(rows, values, strict=True):
            spread = [100 * one for one in row.figures[FRR]]
            axes.vlines(value, min(spread), max(spread), color=style(rows, row)["color"], alpha=0.2)
        front = pareto(values, errors)
        axes.step([values[i] for i in front], [errors[i] for i in front], where="post", color="grey", linewidth=1)
        axes.set(xscale="log", xlabel=label, ylim=(0, None))
    sides[0].set_ylabel("FRR at 0.5 % FAR, %: mean, and range over seeds")
    figure.suptitle("error against cost; line: Pareto front")
    legend(figure, rows)
    return figure


def style(rows: list[Row], row: Row) -> dict[str, Any]:
    """Colour by recipe, marker by form, hollow without its teacher."""
    recipes = list(dict.fromkeys(one.training.recipe for one in rows))
    forms = list(dict.fromkeys(one.form for one in rows))
    return {
        "color": COLOURS[recipes.index(row.training.recipe) % len(COLOURS)],
        "marker": MARKERS[forms.index(row.form)],
        "fillstyle": "none" if row.training.alone else "full",
        "linestyle": "",
    }


def scatter(axes: Axes, rows: list[Row], x: list[float], y: list[float] | list[int]) -> None:
    for row, across, up in zip(rows, x, y, strict=True):
        axes.plot(across, up, **style(rows, row))
    axes.grid(alpha=0.3, which="both")


def legend(figure: Figure, rows: list[Row]) -> None:
    """A colour for each recipe, a marker for each form."""
    plain = [row for row in rows if row.form == FLOAT and not row.training.alone]
    entries = [(style(rows, row), row.name) for row in plain]
    first_of: dict[str, Row] = {}
    for row in rows:
        first_of.setdefault(row.form, row)
    entries += [(style(rows, row) | {"color": "black"}, form) for form, row in first_of.items()]
    if any(row.training.alone for row in rows):
        entries.append(({"marker": "o", "color": "black", "fillstyle": "none", "linestyle": ""}, "without its teacher"))
    lines = [Line2D([], [], **one) for one, _ in entries]
    figure.legend(lines, [name for _, name in entries], loc="outside right upper")


def pareto(costs: list[float], errors: list[float]) -> list[int]:
    """Indices, by rising cost, of those that none of the same cost or less beats."""
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], errors[i])):
        if not front or errors[index] < errors[front[-1]]:
            front.append(index)
    return front
