"""A bundle loaded and run in a process of its own first: should it crash, or take too much, it does so there.

    sha256 = try_out("bundle")
    engine = Engine("bundle", sha256=sha256)

A trial takes as long as Python and onnxruntime take to start, and as much memory as they and the model do.
"""

import contextlib
import io
import os
import resource
import signal
import subprocess
import sys
import time

if not __package__:  # run as a script: find the room as the package it is
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import numpy as np

from runtime.bundle.engine import Engine
from runtime.bundle.manifest import refuse, sha256
from runtime.c.library import LibraryError, library
from runtime.errors import BundleError
from runtime.sample_rate import SAMPLE_RATE

CPU_SECONDS = 20  # for loading and all steps; a Raspberry Pi Zero 2 W takes two
SECONDS = 60  # the same when others want the processor too
MEMORY = 96 << 20  # bytes, besides Python and onnxruntime
HOPS = 10  # of silence, and again of noise
STARTED = "started"


def try_out(bundle_dir: str | os.PathLike[str], model: str | None = None, user: int | None = None) -> str | None:
    """The SHA-256 of the model that was tried, or None where no other Python could be started.

    bundle_dir, model: as for Engine. user: the number of the user and group that the process becomes before it looks at
    the bundle, which only root can. Raises BundleError when the bundle is refused, crashes, takes too long, needs too
    much memory, or when its step takes longer than the audio lasts. Safe to call from any thread.
    """
    folder = os.fspath(bundle_dir)
    command = [sys.executable, os.path.abspath(__file__), folder, model or "", *([] if user is None else [str(user)])]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              encoding="utf-8", timeout=SECONDS, start_new_session=user is not None)
    except (OSError, TypeError, ValueError):  # no Python's name is known; a folder that is no path, as Engine tells
        return None
    except subprocess.TimeoutExpired:
        refuse(folder, f"its trial took more than {SECONDS} s", "export the bundle again")
    started, _, said = done.stdout.partition("\n")
    if started != STARTED:
        return None
    if done.returncode == 0:
        return said.strip()
    if said:
        raise BundleError(said.strip())
    if done.returncode == -signal.SIGXCPU:
        refuse(folder, f"its trial took more than {CPU_SECONDS} s", "export the bundle again")
    refuse(folder, f"its trial ended with code {done.returncode}", "export the bundle again, or update onnxruntime")


def _limit() -> None:
    """Bound what is still to come. Where a limit cannot be set, `SECONDS` remains."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        seconds = int(time.process_time()) + CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _become(user: int) -> None:
    """That user, who can start no process. Modules are imported before: this Python may lie where only root reads."""
    sha256(b"")  # so is its module, at its first use
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def _run(engine: Engine) -> None:
    """Silence and a sweep of all frequencies. Raises BundleError when a step takes longer than its audio lasts."""
    sweep = np.sin(np.arange(engine.hop_samples) ** 2.0).astype(np.float32)
    fastest = float("inf")
    for hop in [np.zeros_like(sweep)] * HOPS + [sweep] * HOPS:
        began = time.thread_time()
        engine.step(hop)
        fastest = min(fastest, time.thread_time() - began)
    if fastest > engine.hop_samples / SAMPLE_RATE:
        refuse(engine.model, f"a step takes {fastest:.3f} s, longer than its audio lasts", "export a smaller model")


def main(arguments: list[str]) -> int:
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(encoding="utf-8")
    folder, model, *user = arguments
    with contextlib.suppress(ImportError):  # before memory is bounded; a device for .bin files has none
        from runtime.bundle import onnx_network  # noqa: F401
    if user:
        with contextlib.suppress(LibraryError, OSError):  # may have to be compiled, and lies where root's cache is
            library()
    print(STARTED, flush=True)
    _limit()
    try:
        if user:
            os.chdir(folder)  # now, as the way there may be root's alone
            _become(int(user[0]))
        engine = Engine("." if user else folder, model or None)
        _run(engine)
    except BundleError as error:
        text = str(error)
        print(folder + text[1:] if user and text.startswith("./") else text)
        return 2
    print(engine.sha256)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
