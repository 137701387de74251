"""A headless Chromium, driven by chromedriver's own HTTP interface (W3C WebDriver)."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

MISSING = [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--window-size=1200,910"]


class Browser:
    """One window. profile: an empty folder."""

    def __init__(self, profile: Path) -> None:
        # It names its port on stdout.
        self._driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        text=True)
        for line in self._driver.stdout:
            if "successfully" in line and "port" in line:
                break
        self._url = f"http://127.0.0.1:{line.split('port')[1].split()[0].rstrip('.')}"
        options = {"args": [*ARGUMENTS, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        wish = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options,
                                "goog:loggingPrefs": {"browser": "ALL"}}}
        session = self._ask("POST", "/session", {"capabilities": wish})["sessionId"]
        self._url += f"/session/{session}"

    def _ask(self, method: str, path: str, body: dict | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """The value of a JavaScript `return`."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def wait_for(self, script: str, seconds: float = 20) -> Any:
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"never came: {script}"
            time.sleep(0.1)
        return value

    def complaints(self) -> list[dict]:
        """What the console was told."""
        return self._ask("POST", "/se/log", {"type": "browser"})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait()
