"""The JSON lines of a listener, as they come."""

import json
import os
import select
import signal
import subprocess
import time

import pytest


def without_over(output: bytes) -> list[dict]:
    """What a listener wrote, but for the lines that tell an event's highest score."""
    lines = [json.loads(line) for line in output.splitlines()]
    return [line for line in lines if line.get("event") != "over"]


class Lines:
    """output: where they are read from, if not the process's own pipe."""

    def __init__(self, process: subprocess.Popen, output: int | None = None) -> None:
        self.process = process
        self.seen: list[dict] = []
        self._rest = b""
        self._output = process.stdout.fileno() if output is None else output

    def reload(self, seconds: float = 20) -> dict:
        """SIGHUP, and audio as a microphone gives it until that is done."""
        self.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.feed(bytes(2560))
            if not select.select([self._output], [], [], 0.08)[0]:
                continue
            if (line := self.until(seconds)).get("event") in ("reloaded", "reload_failed"):
                return line
        pytest.fail(f"no reload in {seconds} s")

    def until(self, seconds: float, **wanted: object) -> dict:
        """The first line with these fields that comes, or came after the last one asked for."""
        end = time.monotonic() + seconds
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                if line:
                    self.seen.append(json.loads(line))
                    if all(self.seen[-1].get(key) == value for key, value in wanted.items()):
                        return self.seen[-1]
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._output], [], [], left)[0]:
                pytest.fail(f"no line with {wanted} in {seconds} s, but {self.seen}")
            data = os.read(self._output, 65536)
            if not data:
                pytest.fail(f"it ended: {self.seen} {self.process.stderr.read()[-2000:]}")
            self._rest += data

    def feed(self, *sounds: bytes) -> None:
        """Audio for a listener on standard input."""
        for sound in sounds:
            self.process.stdin.write(sound)
        self.process.stdin.flush()

    def end(self) -> dict:
        """SIGTERM: it ends within a second, with a summary and without complaints."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        summary = self.until(5, event="summary")
        assert self.process.wait(timeout=5) == 0
        assert time.monotonic() - start < 1.5  # the interpreter of a busy machine needs a little to go
        err = self.process.stderr.read()
        assert b"Traceback" not in err and b"ALSA" not in err and b"rror" not in err, err
        return summary
