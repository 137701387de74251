"""Engines from whose source one check was taken out."""

import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def weakened() -> Iterator[Callable[..., Any]]:
    """weakened((old, new), …): the engine's module with pieces of its source replaced, each found exactly once."""
    made: list[str] = []

    def weaken(*changes: tuple[str, str]) -> Any:
        texts = {name: (ROOT / "runtime" / f"{name}.py").read_text() for name in ("engine", "onnx_scan")}
        for old, new in changes:
            (home,) = [name for name, text in texts.items() if old in text]
            assert texts[home].count(old) == 1, f"{old!r} is there {texts[home].count(old)} times"
            texts[home] = texts[home].replace(old, new)
        texts["engine"] = texts["engine"].replace("from runtime.onnx_scan", "from weakened_onnx_scan")
        for name in ("onnx_scan", "engine"):
            module = types.ModuleType(f"weakened_{name}")
            sys.modules[module.__name__] = module
            made.append(module.__name__)
            exec(compile(texts[name], f"weakened_{name}.py", "exec"), module.__dict__)
        return sys.modules["weakened_engine"]

    yield weaken
    for name in set(made):
        del sys.modules[name]
