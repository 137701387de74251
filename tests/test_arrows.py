"""Rooms and folders know of each other in one direction: training ◄─ export, bundle ─► runtime ◄─ edge_demo."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"training", "export", "runtime", "edge_demo"}
# Folder → what its own files import besides each other. Those that lie directly in a room import all of the room.
ARROWS = {
    "training": set(),
    "training.data": set(),
    "training.methods": {"training.distributed", "training.model", "training.recipe", "training.windows"},
    "training.model": {"training.recipe"},
    "training.record": {"training.data"},
    "training.voices": {"training.data"},
    "training.validation": {f"training.{name}" for name in ("data", "metrics", "model", "recipe", "windows")},
    "training.windows": {"training.data", "training.model", "training.recipe", "training.voices"},
    "export": {"runtime.c", "training.model"},  # what reads a model.bin verifies it
    "export.folder": {"export.detector", "export.forms", "export.step"},
    "export.forms": {"export.detector", "export.step"},
    "export.int8": {
        *(f"export.{name}" for name in ("audio", "detector", "forms", "step", "verify")),
        *(f"training.{name}" for name in ("data", "metrics", "model")),
    },
    "export.step": {"training.model"},
    "runtime": set(),
    "runtime.audio": {"runtime.errors", "runtime.sample_rate"},
    "runtime.bundle": {"runtime.c", "runtime.errors", "runtime.sample_rate"},
    "runtime.c": set(),
    "runtime.sinks": {
        f"runtime.{name}" for name in ("audio", "errors", "journal", "sample_rate", "sinks.dashboard", "status")
    },
    "runtime.sinks.dashboard": {
        f"runtime.{name}"
        for name in (
            *("audio", "bundle", "config_edit", "credit", "errors", "options", "sample_rate", "sinks", "status"),
        )
    },
    "edge_demo": {"runtime", "training.model"},
    "edge_demo.bench": {"runtime.audio", "runtime.bundle", "training.data", "training.model"},
    "edge_demo.deploy": {"runtime.bundle", "runtime.errors", "runtime.files", "runtime.options"},
    "edge_demo.evaluate": {
        "export.folder",
        *(f"runtime.{name}" for name in ("audio", "bundle", "errors")),
        *(f"training.{name}" for name in ("data", "metrics", "windows")),
    },
    "edge_demo.home_assistant": {
        f"runtime.{name}"
        for name in ("audio", "bundle", "credit", "errors", "options", "sample_rate", "sinks.dashboard")
    },
    "edge_demo.results": {
        "edge_demo.bench",
        "edge_demo.evaluate",
        "export.int8",
        "runtime.bundle",
        "runtime.errors",
        *(f"training.{name}" for name in ("data", "metrics", "model", "recipe")),
    },
}


def modules(root: Path) -> dict[str, Path]:
    """Every module of the rooms, by its dotted name; a package by the name of its folder."""
    paths = [path.relative_to(root) for room in sorted(ROOMS) for path in sorted((root / room).rglob("*.py"))]
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): root / path for path in paths}


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


def is_below(name: str, folder: str) -> bool:
    return name == folder or name.startswith(folder + ".")


def folder_of(path: Path) -> str:
    return ".".join(path.parent.relative_to(ROOT).parts)


def graph(root: Path) -> dict[str, set[str]]:
    """Module → the modules that it imports; `from a.b import c` imports a.b.c where that is a module, else a.b."""
    every = modules(root)

    def module_of(name: str) -> str:
        return name if name in every or "." not in name else module_of(name.rpartition(".")[0])

    return {name: {module_of(imported) for imported in imports(path)} & set(every) for name, path in every.items()}


def cycle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring, the first named again at the end; [] if there are none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(arrows[name]):
                if found := walk(other, [*path, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := walk(name, []))), [])


def test_every_folder_has_its_arrows():
    assert {folder_of(path) for path in modules(ROOT).values()} == set(ARROWS)


@pytest.mark.parametrize("folder", sorted(ARROWS))
def test_imports_are_the_arrows(folder):
    unused = set(ARROWS[folder])
    for path in ROOT.joinpath(*folder.split(".")).glob("*.py"):
        for name in imports(path):
            home = max((other for other in ARROWS if is_below(name, other)), key=len)
            inside = home == folder or folder in ROOMS and is_below(name, folder)
            arrows = {arrow for arrow in ARROWS[folder] if is_below(name, arrow)}
            assert inside or arrows, f"{path.relative_to(ROOT)} imports {name}"
            unused -= arrows
    assert not unused, f"nothing in {folder} imports {unused}"


@pytest.mark.parametrize("folder", sorted(ARROWS))
def test_a_folder_says_what_it_is_and_what_it_imports(folder):
    said = ast.get_docstring(ast.parse(ROOT.joinpath(*folder.split("."), "__init__.py").read_text()))
    assert said.count(". ") == 0 and said.endswith(".") and "imports" in said
    assert ARROWS[folder] <= set(said.rstrip(".").replace(",", "").split())


def test_no_module_imports_itself_in_a_ring():
    arrows = graph(ROOT)
    assert len(arrows) > 100
    assert cycle(arrows) == []


def test_the_test_sees_an_arrow_that_points_back(tmp_path):
    (tmp_path / "x.py").write_text("def f():\n    from export import step\n")
    assert imports(tmp_path / "x.py") == {"export.step"}


def test_the_test_sees_a_ring(tmp_path):
    for room in ROOMS:
        (tmp_path / room).mkdir()
    (tmp_path / "training" / "one.py").write_text("def f():\n    from training import two\n")
    (tmp_path / "training" / "two.py").write_text("from training.three import name\n")
    (tmp_path / "training" / "three.py").write_text("if TYPE_CHECKING:\n    import training.one\n")
    assert cycle(graph(tmp_path)) == ["training.one", "training.two", "training.three", "training.one"]
