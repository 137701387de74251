"""A command at every detection: never waited for by the audio, never left behind, and never more than a few at once."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from runtime.options import OptionsError

AT_ONCE = 4  # commands; a detection that finds so many running starts none
POLL_SECONDS = 0.05


class Hook:
    """Runs one command line, split as a shell would but without a shell, with the detection in its environment.

    Each runs in a process group of its own. When it ends, or after `seconds`, what is left of the group is killed.
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
        self._running: set[int] = set()  # process groups
        self._is_closed = False
        self._lock = threading.Lock()

    def publish(self, detection: dict[str, Any]) -> None:
        """Start the command for a detection. Returns at once."""
        if not self._free.acquire(blocking=False):
            self._post("hook_dropped", reason=f"{AT_ONCE} still run")
            return
        environment = os.environ | {
            "EARSHOT_KEYWORD": detection["keyword"], "EARSHOT_SCORE": str(detection["score"]),
            "EARSHOT_TIME": str(detection["time_s"]), "EARSHOT_BUNDLE": detection["bundle"],
        }
        try:
            threading.Thread(target=self._run, args=(environment,), daemon=True).start()
        except RuntimeError as error:  # no more threads to be had, perhaps as a command forks without end
            self._post("hook_failed", reason=str(error))
            self._free.release()

    def _run(self, environment: dict[str, str]) -> None:
        try:
            # Its output would mix with ours on stdout; what it has to complain about may be seen.
            process = subprocess.Popen(self._command, env=environment, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, start_new_session=True)
        except (OSError, ValueError) as error:
            self._post("hook_failed", reason=str(error)[:200])
            self._free.release()
            return
        with self._lock:
            self._running.add(process.pid)
            if self._is_closed:
                _kill(process.pid)
        try:
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
                self._running.discard(process.pid)
            code = process.wait()
            if end == 0 and code:
                self._post("hook_failed", reason=f"exit code {code}" if code > 0 else f"signal {-code}")
        finally:
            self._free.release()

    def finish(self) -> None:
        """Wait for what still runs, which is as long as a command may take at most."""
        for _ in range(AT_ONCE):
            self._free.acquire()

    def close(self) -> None:
        """Kill what still runs."""
        with self._lock:
            self._is_closed = True
            for group in self._running:
                _kill(group)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or become another user
        os.killpg(group, signal.SIGKILL)
