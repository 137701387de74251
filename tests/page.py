"""A listener whose dashboard is asked, over real sockets."""

import http.client
import json
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
from lines import Lines

HOP = (0.5 * 32767 * np.sin(np.arange(1280))).astype("<i2").tobytes()
SILENCE = bytes(2560)
TOKEN = "0123456789abcdef-secret"


def token_file(path: Path, token: str = TOKEN) -> Path:
    """Readable by nobody else."""
    path.touch(0o600)
    path.write_text(token)
    return path


class Page:
    """A listener with a dashboard, fed in real time."""

    def __init__(self, listen, *arguments: str | Path, hop=lambda number: SILENCE) -> None:
        self.lines = Lines(listen("--stdin", "--dashboard", "127.0.0.1:0", *arguments, stdin=subprocess.PIPE))
        self._end = threading.Event()
        self._feeder = threading.Thread(target=self._feed, args=(hop,), daemon=True)
        self._feeder.start()
        self.port = self.lines.until(30, event="dashboard")["port"]

    def _feed(self, hop) -> None:
        start = time.monotonic()
        number = 0
        while not self._end.wait(max(0, start + 0.08 * number - time.monotonic())):
            try:
                self.lines.feed(hop(number))
            except (OSError, ValueError):  # it has ended
                return
            number += 1

    def ask(self, method: str = "GET", path: str = "/state", body: str | None = None, **headers: str):
        """→ status, headers, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def hops(self) -> int:
        return json.loads(self.ask()[2])["counters"]["hops"]

    def reload(self) -> None:
        self.lines.process.send_signal(signal.SIGHUP)
        self.lines.until(20, event="reloaded")
        self.port = [line["port"] for line in self.lines.seen if line.get("event") == "dashboard"][-1]

    def close(self) -> None:
        self._end.set()
        self._feeder.join()
        self.lines.end()
