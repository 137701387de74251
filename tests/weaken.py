"""Modules from whose source one mend was taken out, to see the harm that it keeps away."""

import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def weaken(path: str, *changes: tuple[str, str]) -> Any:
    """The module in that file of the project, with pieces of its source replaced, each found exactly once."""
    source = (ROOT / path).read_text()
    for old, new in changes:
        assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
        source = source.replace(old, new)
    module = types.ModuleType(f"weakened_{Path(path).stem}")
    module.__file__ = str(ROOT / path)
    exec(compile(source, path, "exec"), module.__dict__)
    return module
