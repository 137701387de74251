"""The sinks that the options ask for, opened again when the options change."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from runtime.sinks.sink import Sink
from runtime.status import Status


def _meter(options: argparse.Namespace, status: Status) -> Sink:
    from runtime.sinks.meter import Meter

    return Meter(status)


def _hook(options: argparse.Namespace, status: Status) -> Sink:
    from runtime.sinks.hook import Hook

    return Hook(options.exec, options.exec_timeout, status.journal.post)


def _led(options: argparse.Namespace, status: Status) -> Sink:
    from runtime.sinks.led import Led

    return Led(options.led, status.journal.post)


def _keeper(options: argparse.Namespace, status: Status) -> Sink:
    from runtime.sinks.keep import Keeper

    most_bytes = options.save_megabytes * 1e6
    return Keeper(options.save_on_detect, options.save_seconds, most_bytes, status.hop_samples, status.journal.post)


def _mqtt(options: argparse.Namespace, status: Status) -> Sink:
    from runtime.sinks.mqtt import Publisher

    return Publisher(options.mqtt, keywords=sorted({*status.keywords}), password=options.mqtt_password,
                     discovery=not options.no_mqtt_discovery,
                     warn=lambda message: status.journal.post("mqtt", message=message))


def _dashboard(options: argparse.Namespace, status: Status) -> Sink:
    from runtime.sinks.dashboard.page import Dashboard

    return Dashboard(status, options.dashboard, options.dashboard_token)


# Each is imported where it is wanted only. With it the options that it is made with; the first of them asks for it.
MAKERS: tuple[tuple[Callable[[argparse.Namespace, Status], Sink], tuple[str, ...]], ...] = (
    (_meter, ("meter",)),
    (_hook, ("exec", "exec_timeout")),
    (_led, ("led",)),
    (_keeper, ("save_on_detect", "save_seconds", "save_megabytes")),
    (_mqtt, ("mqtt", "mqtt_password", "no_mqtt_discovery")),
    (_dashboard, ("dashboard", "dashboard_token")),
)


class Sinks:
    """Those that are open, in the order of MAKERS."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._open: dict[Any, tuple[list[Any], Sink]] = {}  # by their maker, and what they were made with

    def open(self, options: argparse.Namespace) -> None:
        """Have what the options ask for; what is there as they ask for it stays. Raises OptionsError."""
        for make, names in MAKERS:
            wishes = [getattr(options, name) for name in names]
            if make is _mqtt:
                wishes.append(self._status.keywords)  # which it has told to Home Assistant
            if make in self._open and self._open[make][0] == wishes:
                continue
            if make in self._open:
                self._open.pop(make)[1].close()
            if wishes[0] not in (None, False):
                self._open[make] = wishes, make(options, self._status)

    def __iter__(self) -> Iterator[Sink]:
        return iter([self._open[make][1] for make, _ in MAKERS if make in self._open])
