"""C programs and libraries of these tests, compiled once each."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from c_files import HERE

from runtime.c import library


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Callable[..., Path]:
    """A C file of this folder, or a path → the executable or library that the flags make of it."""
    folder = tmp_path_factory.mktemp("c")
    made: dict[tuple, Path] = {}

    def compiled(source: str | Path, *flags: str, compiler: str = os.environ.get("CC", "cc")) -> Path:
        if not shutil.which(compiler):
            pytest.skip(f"no {compiler}")
        key = source, flags, compiler
        if key not in made:
            path = folder / f"{Path(source).stem}-{len(made)}"
            command = [compiler, *flags, "-o", str(path), str(HERE / source), *([] if "-c" in flags else ["-lm"])]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            made[key] = path
        return made[key]

    return compiled


@pytest.fixture
def internals(compiled, monkeypatch) -> Callable[..., ctypes.CDLL]:
    """The engine, with what `internals.c` adds to it and more flags, in place of the one that `CEngine` loads."""

    def internals(*flags: str) -> ctypes.CDLL:
        loaded = ctypes.CDLL(str(compiled("internals.c", *library.FLAGS, *flags)))
        library.declare(loaded)
        loaded.largest_error.restype = loaded.largest_sine_error.restype = ctypes.c_double
        loaded.largest_error.argtypes = ctypes.c_int, ctypes.c_uint32
        loaded.frames_of.restype, loaded.frames_of.argtypes = ctypes.POINTER(ctypes.c_float), [ctypes.c_void_p]
        monkeypatch.setattr(library, "library", lambda: loaded)
        return loaded

    return internals
