"""A real mosquitto on a free port of this machine, and somebody who listens to it."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def until(true: Callable[[], Any], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class Broker:
    """mosquitto; it forgets everything when it stops."""

    def __init__(self, folder: Path, *lines: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        text = [f"listener {self.port} 127.0.0.1", "persistence false", *(lines or ["allow_anonymous true"])]
        if os.getuid() == 0:
            text.append("user root")  # or it drops its rights and cannot read the folder of the test
        self._config.write_text("\n".join(text) + "\n")
        self.start()

    def start(self) -> None:
        assert MOSQUITTO
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stderr=subprocess.DEVNULL)

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        until(answers)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Subscriber:
    """Somebody else at the broker. messages: (topic, payload, retained)."""

    def __init__(self, port: int, user: str | None = None, password: str | None = None) -> None:
        import paho.mqtt.client as paho

        self.messages: list[tuple[str, bytes, bool]] = []
        self.subscribed = False
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(0.1, 0.1)  # type: ignore[arg-type]
        if user:
            self._client.username_pw_set(user, password)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self._client.on_message = lambda client, data, m: self.messages.append((m.topic, m.payload, m.retain))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        until(lambda: self.subscribed)

    def on(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(payload) for where, payload, _ in self.messages if where == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
