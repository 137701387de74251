"""A good service: tells systemd how it is (sd_notify by a plain socket), and ends in time whatever hangs."""

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable

PATIENCE = 0.8  # seconds from SIGTERM until the process ends by force


class Terminated(KeyboardInterrupt):
    """SIGTERM: end, and say the totals."""


class Systemd:
    """What systemd's `Type=notify` and `WatchdogSec=` want to hear. Does nothing when systemd is not listening."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")  # popped: a hook must not speak for us
        watchdog = os.environ.pop("WATCHDOG_USEC", "")
        self._socket: socket.socket | None = None
        self._every = self._fed = 0.0
        if not address.startswith(("/", "@")):
            return
        self._address = "\0" + address[1:] if address[0] == "@" else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        if watchdog.isdecimal() and os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._every = int(watchdog) / 4e6  # four times as often as it must

    def say(self, message: str) -> None:
        """READY=1, STOPPING=1, STATUS=…; systemd that does not take it is not waited for."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(message.encode(), self._address)

    def reloading(self) -> None:
        self.say(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def processed(self) -> None:
        """A hop was processed: feed the watchdog, when it is time. Nothing else feeds it."""
        if self._every and (now := time.monotonic()) - self._fed >= self._every:
            self._fed = now
            self.say("WATCHDOG=1")


def on_sigterm(last_words: Callable[[], bytes]) -> None:
    """Make SIGTERM raise Terminated in the main thread, and end the process by force if that is not heard in time:
    PortAudio may hang for as long as a sound server does, and Python handles signals only when C returns.
    """

    def raise_it(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    def watch(heard: socket.socket, _told: socket.socket) -> None:
        while signal.SIGTERM not in heard.recv(64):
            pass
        threading.Event().wait(PATIENCE)
        with contextlib.suppress(OSError):
            if select.select([], [1], [], 0)[1]:  # whoever reads our lines may be what hangs
                os.write(1, last_words())
        os._exit(0)

    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.signal(signal.SIGTERM, raise_it)
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, args=(heard, told), daemon=True).start()
