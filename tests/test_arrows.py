"""The rooms know of each other in one direction only: training ◄─ export, bundle ─► runtime ◄─ edge_demo."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"training", "export", "runtime", "edge_demo"}
ALLOWED = {
    "training": set(),
    "export": {f"training.{name}" for name in ("checkpoint", "crnn", "data", "features", "metrics", "streams")},
    "runtime": set(),
    "edge_demo": {
        "export.quantize.file_of",
        "export.threshold",
        "runtime",
        *(f"training.{name}" for name in ("augment", "checkpoint", "corpora", "crnn", "data", "features")),
        *(f"training.{name}" for name in ("metrics", "recipe", "streams")),
    },
}


def imports(path: Path) -> set[str]:
    """Names of the modules of any room that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in ROOMS}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_follow_the_arrows(room):
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            inside = name.split(".")[0] == room
            allowed = any(name == a or name.startswith(a + ".") for a in ALLOWED[room])
            assert inside or allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_test_sees_an_arrow_that_points_back(tmp_path):
    (tmp_path / "x.py").write_text("def f():\n    from export import step\n")
    assert imports(tmp_path / "x.py") == {"export.step"}
