"""An LED of the board that lights up at every detection: the Pi's own is `ACT`."""

import os
import threading
from collections.abc import Callable
from typing import Any

from runtime.errors import OptionsError
from runtime.sinks.sink import Sink

LEDS = "/sys/class/leds"  # of the kernel: a folder each
SECONDS = 0.5


class Led(Sink):
    """Takes the LED from whatever the kernel has it show (its trigger), and gives it back when it is closed.

    name: of a folder below LEDS, or the folder. post(event, **fields) is called with led_failed. Raises OptionsError
    when it cannot be had.
    """

    def __init__(self, name: str, post: Callable[..., None]) -> None:
        self._folder = os.path.join(LEDS, name)
        self._post = post
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        try:
            with open(os.path.join(self._folder, "trigger")) as file:
                self._before = next((word[1:-1] for word in file.read().split() if word[0] == "["), "none")
            self._write("trigger", "none")
            self._write("brightness", "0")
        except FileNotFoundError:
            known = ", ".join(sorted(os.listdir(LEDS))) if os.path.isdir(LEDS) else ""
            raise OptionsError(f"--led {name}: no such LED: there is {known or 'none'}") from None
        except OSError as error:
            fix = "let the service have it (60-earshot.rules of edge_demo), or run as root"
            raise OptionsError(f"--led {name}: {error.strerror}: {fix}") from None

    def _write(self, file: str, value: str) -> None:
        with open(os.path.join(self._folder, file), "w") as out:
            out.write(value)

    def publish(self, detection: dict[str, Any]) -> None:
        """Light it for half a second, from now on if it is lit already. Returns at once."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            self._light("255")  # the kernel takes the most there is instead
            self._timer = threading.Timer(SECONDS, self._light, ["0"])
            self._timer.daemon = True
            self._timer.start()

    def _light(self, brightness: str) -> None:
        try:
            self._write("brightness", brightness)
        except OSError as error:
            self._post("led_failed", reason=str(error.strerror))

    def close(self) -> None:
        with self._lock:
            if self._timer:
                self._timer.cancel()
        self._light("0")
        try:
            self._write("trigger", self._before)
        except OSError as error:
            self._post("led_failed", reason=str(error.strerror))
