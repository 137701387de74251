"""The C engine by its Python binding: what earshot.h promises, and what it says when it cannot be had."""

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from c_files import MODELS, OPTIMISED, STRICT, audio, scores, weights

from export.detector import read_checkpoint
from export.forms.binary import INT8
from runtime.c import library
from runtime.c.library import CEngine, LibraryError

SOURCE, HEADER = library.SOURCES
BOTH = pytest.mark.parametrize("kind", [0, INT8], ids=["float", "int8"])


def test_tells_what_the_weights_say():
    detector = read_checkpoint(MODELS / "happy-small")
    engine = CEngine(weights("happy-small"))
    assert engine.keywords == tuple(detector.keywords)
    assert np.allclose(engine.thresholds, detector.thresholds, rtol=1e-7, atol=0)
    assert (engine.hop_samples, engine.refractory_hops) == (detector.hop_samples, detector.refractory_hops)


@BOTH
def test_reset_and_a_second_stream_start_from_nothing(kind):
    engine = CEngine(weights("happy-small", kind))
    first = scores(engine, audio())
    assert first.max() > first.min()
    assert (scores(engine, audio()) != first).any()  # it remembers
    engine.reset()
    other = engine.stream()
    for hop, score in zip(audio().reshape(-1, engine.hop_samples), first, strict=True):
        assert engine.step(hop) == other.step(hop) == score


@BOTH
def test_int16_is_a_32768th_of_float(kind):
    engine = CEngine(weights("happy-small", kind))
    integers = np.clip(np.round(audio() * 32768), -32768, 32767).astype(np.int16)
    wanted = scores(engine.stream(), integers.astype(np.float32) / 32768)
    assert (scores(engine, integers) == wanted).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, 3e38])
def test_what_is_no_audio_resets_the_stream(bad):
    engine = CEngine(weights("happy-small"))
    fresh = scores(engine.stream(), audio())
    scores(engine, audio()[: 20 * 1280])
    hop = audio()[:1280].copy()
    hop[700] = bad
    assert engine.step(hop) == 0 and engine.nan_resets == 1
    assert (scores(engine, audio()) == fresh).all()
    assert engine.nan_resets == 1


@pytest.mark.parametrize("audio", [np.zeros(1279, np.float32), np.zeros((1, 1280), np.float32), np.zeros(1280)])
def test_other_shapes_and_types_are_refused(audio):
    with pytest.raises(ValueError, match=r"a hop is a float32 or int16 array of shape \(1280,\)"):
        CEngine(weights("happy-small")).step(audio)


@pytest.mark.parametrize(
    "flags", [("-DEARSHOT_LANES=1",), ("-DEARSHOT_LANES=4", "-O0"), ("-ffp-contract=off",)], ids=str
)
@BOTH
def test_every_build_gives_the_same_scores(internals, kind, flags):
    wanted = scores(CEngine(weights("happy-ensemble", kind)), audio())
    internals(*flags)
    assert np.abs(scores(CEngine(weights("happy-ensemble", kind)), audio()) - wanted).max() < 2e-6


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_compiles_without_a_warning(compiled, compiler):
    compiled(SOURCE, "-std=c99", "-O2", *STRICT, "-c", compiler=compiler)


def test_header_is_c_plus_plus_too(compiled, tmp_path):
    source = tmp_path / "use.cpp"
    source.write_text(f'#include "{HEADER}"\nint main() {{ return earshot_memory(nullptr, 0) != 0; }}\n')
    compiled(source, "-Wall", "-Werror", "-c", compiler="c++")


def test_needs_four_functions_of_the_c_library(compiled):
    object_file = compiled(SOURCE, *OPTIMISED, "-c")
    listed = subprocess.run(["nm", "-u", object_file], capture_output=True, text=True, check=True).stdout.split()
    assert set(listed) - {"U"} <= {"memcpy", "memmove", "memset", "memcmp", "strlen", "_GLOBAL_OFFSET_TABLE_"}
    data = subprocess.run(["nm", object_file], capture_output=True, text=True, check=True).stdout
    assert not [line for line in data.splitlines() if line.split()[-2] in "BbDdC"]  # no state of its own


def test_memory_and_alignment_are_checked():
    loaded, content = library.library(), weights("happy-small")
    size = loaded.earshot_memory(content, len(content))
    memory = np.full(size + 16, 0xA5, np.uint8)
    start = memory.ctypes.data
    assert start % 16 == 0
    assert loaded.earshot_init(start, size - 1, content, len(content)) == 4
    assert loaded.earshot_init(None, size, content, len(content)) == 4
    assert loaded.earshot_init(start + 4, size, content, len(content)) == 5
    assert (memory == 0xA5).all()  # as it was
    assert loaded.earshot_init(start, size, content, len(content)) == 0
    assert (memory[size:] == 0xA5).all()
    shifted = ctypes.create_string_buffer(len(content) + 16)
    at = (ctypes.addressof(shifted) + 7) // 8 * 8 + 4
    ctypes.memmove(at, content, len(content))
    assert loaded.earshot_init(start, size, ctypes.cast(at, ctypes.c_char_p), len(content)) == 5


def test_names_and_thresholds_out_of_range():
    engine = CEngine(weights("happy-small"))
    for index in (-1, 1, 2**31 - 1):
        assert engine._library.earshot_keyword(engine._engine, index) is None
        assert engine._library.earshot_threshold(engine._engine, index) == 0


def test_every_status_has_a_message():
    messages = [library.library().earshot_message(status).decode() for status in range(-1, 8)]
    assert messages[0] == messages[-1] == "unknown status"
    assert len(set(messages)) == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a model.bin: export it again"),
        (b"\x08\x07" * 100, "not a model.bin"),
        (b"EARSHOT\0" + bytes(200), "a version of model.bin that this library does not know"),
        (weights("happy-tiny")[:-1], "truncated, damaged or too large"),
    ],
)
def test_refused_weights_are_one_line(content, message):
    with pytest.raises(LibraryError, match=message):
        CEngine(content)


@pytest.fixture
def nothing_built(monkeypatch, tmp_path) -> Path:
    """A user without a library → where theirs would be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(library, "library", library.library.__wrapped__)
    return library.cached()


def test_is_built_once(nothing_built, monkeypatch):
    assert CEngine(weights("happy-tiny")).keywords == ("happy",)
    assert [path.name for path in nothing_built.parent.iterdir()] == [nothing_built.name]
    monkeypatch.setenv("PATH", "")
    CEngine(weights("happy-tiny"))


def test_no_compiler(nothing_built, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LibraryError, match="no C compiler: install gcc, or build it on a machine of this kind"):
        CEngine(weights("happy-tiny"))


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler -m32"])
def test_a_compiler_that_fails_leaves_nothing(nothing_built, monkeypatch, compiler):
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(LibraryError, match="cannot"):
        CEngine(weights("happy-tiny"))
    assert not list(nothing_built.parent.iterdir())


def test_no_home(nothing_built, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "nowhere")
    with pytest.raises(LibraryError, match="no folder to build it in"):
        CEngine(weights("happy-tiny"))


@pytest.mark.parametrize("content", [b"", b"no library"])
def test_a_library_that_is_none(nothing_built, content):
    nothing_built.parent.mkdir(parents=True)
    nothing_built.write_bytes(content)
    with pytest.raises(LibraryError, match="cannot be loaded"):
        CEngine(weights("happy-tiny"))


def test_the_command_writes_a_library(tmp_path):
    command = [sys.executable, Path(library.__file__), tmp_path / "folder" / "libearshot.so"]
    subprocess.run(command, check=True, cwd=tmp_path)
    library.declare(ctypes.CDLL(str(command[2])))
    failed = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1 and "no C compiler" in failed.stderr
