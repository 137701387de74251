"""The programs with checks taken out of their source, and what a process needs."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


def weakened(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """runtime/ and edge_demo/ copied, with pieces of source replaced, each found exactly once: (file, old, new)."""
    for room in ("runtime", "edge_demo"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    for name, old, new in changes:
        text = (folder / name).read_text()
        assert text.count(old) == 1, f"{old!r} is in {name} {text.count(old)} times"
        (folder / name).write_text(text.replace(old, new))
    return folder


def memory(pid: int) -> float:
    """Anonymous memory in MB: what the process has made, not what it has mapped."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e6


def cpu(pid: int, seconds: float) -> float:
    """Share of one processor that a process takes in so many seconds from now."""

    def used() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    before, began = used(), time.monotonic()
    time.sleep(seconds)
    return (used() - before) / (time.monotonic() - began)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def eventually(true: Callable[[], Any], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
