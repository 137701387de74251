"""Figures as lines, tables and a section of a bundle's report."""

from pathlib import Path

import numpy as np

from edge_demo.evaluate.false_accepts import Alarms

HEADING = "## How good it is"


def put_into_report(report: Path, columns: dict[str, dict], picture: str) -> None:
    """Write the figures as the last section of a bundle's report, in place of what was there."""
    before = report.read_text().split(HEADING)[0].rstrip() if report.exists() else f"# {report.parent.name}"
    source = "By `python -m edge_demo.evaluate`; intervals are of 95 %."
    parts = [before, HEADING, source, f"![DET curve and misses]({picture})", markdown(cells(columns))]
    report.write_text("\n\n".join(parts) + "\n")


def markdown(lines: list[list[str]]) -> str:
    """A table; the first line is its head."""
    marks = ["---", *["--:"] * (len(lines[0]) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], marks, *lines[1:]])


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
    """A line for each figure, a column for each bundle; with three and more bundles also mean and range. Peers, which
    have few of the figures, do not count in these."""
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


def false_accepts(streams: list[Alarms], threshold: float) -> list[dict]:
    """Each false accept, the highest scores first."""
    events = [(score, one.name, file, seconds) for one in streams for score, file, seconds in one.events(threshold)]
    return [
        {"score": round(score, 4), "kind": kind, "file": file, "seconds": round(seconds, 2)}
        for score, kind, file, seconds in sorted(events, reverse=True)
    ]


def line(event: dict) -> str:
    return f"  {event['score']:.3f}  {event['kind']:11}  {event['seconds']:7.2f} s  {event['file']}"
