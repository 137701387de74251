"""A command at every detection: never waited for by the audio, never left behind, and never more than a few at once.

A command's children are in its process group, and go with it; one that went into a session of its own (setsid, a
daemon) does not. It becomes our child instead when its parent ends, as we are a subreaper (prctl(2)), and is killed.
For that, no child of this process but a command may be in a session of its own.
"""

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from runtime.errors import OptionsError
from runtime.sinks.sink import Sink

AT_ONCE = 4  # commands; a detection that finds so many running starts none
POLL_SECONDS = 0.05
CLEARING_SECONDS = 0.5  # for what commands left behind
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Hook(Sink):
    """Runs one command line, split as a shell would but without a shell, with the detection in its environment.

    Each runs in a session of its own. When it ends, or after `seconds`, whatever it has started is killed; what could
    be of another command that still runs, when that ends, or when it is older than a command can be.
    post(event, **fields) is called with hook_failed and hook_dropped. Raises OptionsError when it cannot be run.
    """

    def __init__(self, command: str, seconds: float, post: Callable[..., None]) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise OptionsError(f"--exec {command!r}: {error}: close what was opened") from None
        if not self._command or shutil.which(self._command[0]) is None:
            raise OptionsError(f"--exec {command!r}: no such program: give its full path, and make it executable")
        self._seconds = seconds
        self._post = post
        self._free = threading.Semaphore(AT_ONCE)
        self._commands: set[int] = set()  # not yet waited for
        self._groups: set[int] = set()  # of those that may be killed
        self._is_closed = False
        self._lock = threading.Lock()
        with contextlib.suppress(AttributeError):  # elsewhere than on Linux
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def publish(self, detection: dict[str, Any]) -> None:
        """Start the command for a detection. Returns at once."""
        if not self._free.acquire(blocking=False):
            self._post("hook_dropped", reason=f"{AT_ONCE} still run")
            return
        told = {"KEYWORD": detection["keyword"], "SCORE": str(detection["score"]), "TIME": str(detection["time_s"]),
                "BUNDLE": detection["bundle"]}
        # UTF-8, whatever the locale: in that of ASCII a keyword in Chinese could not be told at all.
        environment = os.environb | {f"EARSHOT_{name}".encode(): value.encode(errors="surrogateescape")
                                      for name, value in told.items()}
        try:
            threading.Thread(target=self._run, args=(environment,), daemon=True).start()
        except RuntimeError as error:  # no more threads to be had, perhaps as a command forks without end
            self._post("hook_failed", reason=str(error))
            self._free.release()

    def _run(self, environment: dict[bytes, bytes]) -> None:
        try:
            self._run_command(environment)
        except Exception as error:  # whoever waits in `finish` must not wait for ever
            self._post("hook_failed", reason=(str(error) or type(error).__name__)[:200])
        finally:
            self._free.release()

    def _run_command(self, environment: dict[bytes, bytes]) -> None:
        with self._lock:
            # What it says goes to stderr, which is the log: on stdout it would mix with our lines.
            process = subprocess.Popen(self._command, env=environment, stdin=subprocess.DEVNULL, stdout=2,
                                       start_new_session=True)
            self._commands.add(process.pid)
            self._groups.add(process.pid)
            if self._is_closed:
                _kill(process.pid)
        end = time.monotonic() + self._seconds
        # WNOWAIT: until it is waited for for good, nobody else can get its number, and the group is surely its own.
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() >= end:
                self._post("hook_failed", reason=f"killed after {self._seconds:g} s")
                break
            time.sleep(POLL_SECONDS)
        else:
            end = 0
        _kill(process.pid)
        with self._lock:
            self._groups.discard(process.pid)
        code = process.wait()
        with self._lock:
            self._commands.discard(process.pid)
        self._clear_away()
        if end == 0 and code:
            self._post("hook_failed", reason=f"exit code {code}" if code > 0 else f"signal {-code}")

    def finish(self) -> None:
        """Wait for what still runs, which is as long as a command may take at most."""
        for _ in range(AT_ONCE):
            self._free.acquire()

    def close(self) -> None:
        """Kill what still runs."""
        with self._lock:
            self._is_closed = True
            for group in self._groups:
                _kill(group)
        self._clear_away()

    def _clear_away(self) -> None:
        """Kill what commands left behind, and what that leaves behind; without end where it forks without end."""
        end = time.monotonic() + CLEARING_SECONDS
        while time.monotonic() < end:
            with self._lock:  # no command can start meanwhile
                left = [child for child, age in _children_in_own_sessions() if child not in self._commands
                        and (age > self._seconds or not self._commands or self._is_closed)]
                for child in left:
                    with contextlib.suppress(OSError):  # become another user
                        os.kill(child, signal.SIGKILL)  # it is ours to wait for, so its number is nobody else's
                        os.waitpid(child, os.WNOHANG)
                if not left and not (self._is_closed and self._commands):
                    return
            time.sleep(POLL_SECONDS)


def _children_in_own_sessions() -> Iterator[tuple[int, float]]:
    """Numbers and ages in seconds of this process's children that are in another session, dead ones too."""
    own, session = os.getpid(), os.getsid(0)
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        with contextlib.suppress(OSError):
            if name.isdecimal():
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()  # proc(5): from the third on
                if int(fields[1]) == own and int(fields[3]) != session:
                    born = int(fields[19]) / os.sysconf("SC_CLK_TCK")
                    yield int(name), time.clock_gettime(time.CLOCK_BOOTTIME) - born


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or become another user
        os.killpg(group, signal.SIGKILL)
