"""Binds the C engine: a model.bin and a stream of audio, without onnxruntime.

The library is `libearshot.so` beside this file where there is one; else it is compiled once, into the user's cache
folder. To build it where there is a compiler, for a device of the same kind that has none:

    python runtime/c/library.py libearshot.so
"""

import argparse
import ctypes
import functools
import os
import sys
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "earshot.c", HERE / "earshot.h"
NAME = "libearshot.so"
ELSEWHERE = f"build it on a machine of this kind by python {HERE / 'library.py'}, and copy it to {HERE / NAME}"
# No -march: the file may move to another machine. -fno-trapping-math keeps NaN and infinity; without it gcc leaves
# exp, log and tanh as they are written, one number at a time.
FLAGS = ("-std=c99", "-O3", "-ffp-contract=fast", "-fno-trapping-math", "-fPIC", "-shared")
LARGEST_MEMORY = 96 << 20  # bytes of one engine, as of onnxruntime's results; real ones have 40 000
OK, NOT_FINITE = 0, 6


class LibraryError(Exception):
    """No library, or weights that it refuses. The message is one line: what is wrong and what to do."""


class CEngine:
    """One model.bin, and the state of one stream of audio.

    content: the file's bytes. Raises LibraryError.

    keywords: names, in the order of the scores. thresholds: the operating point, one for each keyword.
    hop_samples: length of one step at 16 kHz. refractory_hops: hops after an event in which there is no other.
    nan_resets: how often the state had to be thrown away because of audio or scores that were no numbers.
    """

    def __init__(self, content: bytes) -> None:
        self._library = library()
        self._weights = content  # the engine reads them where they lie
        self._start()
        engine = self._engine
        count = self._library.earshot_keywords(engine)
        self.keywords: tuple[str, ...] = tuple(
            self._library.earshot_keyword(engine, i).decode(errors="replace") for i in range(count)
        )
        self.thresholds: tuple[float, ...] = tuple(self._library.earshot_threshold(engine, i) for i in range(count))
        self.hop_samples: int = self._library.earshot_hop_samples(engine)
        self.refractory_hops: int = self._library.earshot_refractory_hops(engine)
        self._make_buffers()

    def _start(self) -> None:
        self.nan_resets = 0
        content = self._weights
        size = self._library.earshot_memory(content, len(content))
        if size > LARGEST_MEMORY:
            raise LibraryError(f"needs {size} bytes of memory, more than the {LARGEST_MEMORY} allowed: export it again")
        self._memory = np.zeros(-(-size // 16), np.complex128)  # aligned to 16 bytes
        self._engine = ctypes.c_void_p(self._memory.ctypes.data)
        status = self._library.earshot_init(self._engine, size, content, len(content))
        if status != OK:
            raise LibraryError(f"{self._library.earshot_message(status).decode()}: export it again")

    def _make_buffers(self) -> None:
        self._floats = np.zeros(self.hop_samples, np.float32)
        self._integers = np.zeros(self.hop_samples, np.int16)
        self._scores = np.zeros(len(self.keywords), np.float32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (self._floats, self._integers, self._scores)]
        self._float_pointer, self._integer_pointer, self._score_pointer = pointers

    def stream(self) -> "CEngine":
        """The same weights for another stream of audio, from zero state."""
        other = object.__new__(CEngine)
        other.__dict__ |= self.__dict__
        other._start()
        other._make_buffers()
        return other

    def reset(self) -> None:
        """Start a new stream: nothing has been heard."""
        self._library.earshot_reset(self._engine)

    def step(self, audio: NDArray[np.float32] | NDArray[np.int16]) -> NDArray[np.float32]:
        """One hop of audio, (hop_samples,) at 16 kHz, float32 in -1…1 or int16 → its scores, float32 (n_keywords,) in
        0…1. Audio or scores that are no numbers give zeros, reset the state and count in `nan_resets`.

        Raises ValueError for any other shape or dtype.
        """
        if audio.shape != self._floats.shape or audio.dtype not in (np.float32, np.int16):
            raise ValueError(
                f"a hop is a float32 or int16 array of shape {self._floats.shape}, got {audio.dtype} {audio.shape}"
            )
        if audio.dtype == np.int16:
            self._integers[:] = audio
            status = self._library.earshot_step_int16(self._engine, self._integer_pointer, self._score_pointer)
        else:
            self._floats[:] = audio
            status = self._library.earshot_step(self._engine, self._float_pointer, self._score_pointer)
        self.nan_resets += status == NOT_FINITE
        return self._scores.copy()


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library, built if there is none. Raises LibraryError."""
    path = HERE / NAME
    if not path.exists():
        path = cached()
        if not path.exists():
            build(path)
    try:
        loaded = ctypes.CDLL(os.fspath(path))
        declare(loaded)
    except (OSError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise LibraryError(
            f"{path}: cannot be loaded ({reason[:200]}): remove it, or build it on this machine"
        ) from None
    return loaded


def declare(loaded: ctypes.CDLL) -> None:
    """The types of earshot.h. Raises AttributeError when a function is missing."""
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    for name, result, arguments in (
        ("memory", size, (ctypes.c_char_p, size)),
        ("init", number, (pointer, size, ctypes.c_char_p, size)),
        ("reset", None, (pointer,)),
        ("step", number, (pointer, pointer, pointer)),
        ("step_int16", number, (pointer, pointer, pointer)),
        ("hop_samples", number, (pointer,)),
        ("keywords", number, (pointer,)),
        ("refractory_hops", number, (pointer,)),
        ("keyword", ctypes.c_char_p, (pointer, number)),
        ("threshold", ctypes.c_float, (pointer, number)),
        ("message", ctypes.c_char_p, (number,)),
    ):
        function = getattr(loaded, f"earshot_{name}")
        function.restype, function.argtypes = result, arguments


def cached() -> Path:
    """Where a library of exactly these sources is kept. Raises LibraryError."""
    told = os.environ.get("XDG_CACHE_HOME", "")
    home = os.path.expanduser("~")
    if not os.path.isabs(told) and not os.path.isabs(home):
        raise LibraryError(f"no folder to build it in: {ELSEWHERE}")
    folder = Path(told) if os.path.isabs(told) else Path(home, ".cache")
    made_of = [*(source.read_bytes() for source in SOURCES), f"{FLAGS} {sys.platform} {os.uname().machine}".encode()]
    return folder / "earshot" / f"libearshot-{zlib.crc32(b''.join(made_of)):08x}.so"


def build(path: Path) -> None:
    """Compile the library to `path`, all of it or nothing. Raises LibraryError."""
    import shutil  # what a device with a library never needs
    import subprocess

    compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), "")
    if not compiler:
        raise LibraryError(f"no C compiler: install gcc, or {ELSEWHERE}")
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [*compiler.split(), *FLAGS, "-o", os.fspath(partial), os.fspath(SOURCES[0])]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise LibraryError(f"{compiler} cannot compile {SOURCES[0]}: {' '.join(done.stderr.split())[:300]}")
        os.replace(partial, path)
    except OSError as error:
        raise LibraryError(f"cannot build {path} ({error.strerror}): {ELSEWHERE}") from None
    finally:
        partial.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path, metavar="FILE", help=f"to write, such as {NAME}")
    try:
        build(parser.parse_args().library)
    except LibraryError as error:
        print(f"library: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
