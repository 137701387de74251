"""The Wyoming server as a process."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "edge_demo" / "home_assistant" / "wyoming_server.py"


class WakeServer:
    """wyoming_server.py on a free port of this machine. log: what it has said so far."""

    def __init__(self, log: Path, *arguments: object, script: Path = SCRIPT, wait: bool = True) -> None:
        self._log = log
        command = [sys.executable, script, "--uri", "tcp://127.0.0.1:0", *arguments]
        with log.open("wb") as file:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stderr=file, cwd=log.parent)
        self.port = 0
        while wait and not self.port and self.process.poll() is None:
            for line in self.log:
                if "listening on" in line:
                    self.port = int(line.split()[3].rpartition(":")[2])

    @property
    def log(self) -> list[str]:
        return self._log.read_text().splitlines()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)
