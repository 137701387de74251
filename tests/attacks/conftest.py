"""Runtimes from whose source one check was taken out."""

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attack import ROOT

numbers = itertools.count()


@pytest.fixture
def weak_copy(tmp_path: Path) -> Callable[..., Path]:
    """weak_copy((old, new), …): a folder like runtime/ with pieces of its source replaced, each found exactly once."""

    def copy(*changes: tuple[str, str]) -> Path:
        name = f"weak{next(numbers)}"
        room = ROOT / "runtime"
        texts = {str(path.relative_to(room)): path.read_text() for path in room.rglob("*.py")}
        for old, new in changes:
            homes = [file for file, text in texts.items() if old in text]
            assert len(homes) == 1 and texts[homes[0]].count(old) == 1, f"{old!r} is in {homes}"
            texts[homes[0]] = texts[homes[0]].replace(old, new)
        for file, text in texts.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text.replace("from runtime", f"from {name}"))
        return tmp_path / name

    return copy


@pytest.fixture
def weakened(weak_copy: Callable[..., Path]) -> Iterator[Callable[..., Any]]:
    """weakened((old, new), …): the engine's module of such a runtime."""
    before = set(sys.modules)

    def weaken(*changes: tuple[str, str]) -> Any:
        folder = weak_copy(*changes)
        sys.path.insert(0, str(folder.parent))
        try:
            return importlib.import_module(f"{folder.name}.bundle.engine")
        finally:
            sys.path.remove(str(folder.parent))

    yield weaken
    for name in set(sys.modules) - before:
        if name.startswith("weak"):
            del sys.modules[name]
