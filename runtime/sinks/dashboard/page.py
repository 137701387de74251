"""A page that shows what the listener hears: level, mel picture, score against threshold, detections, counters.

One page without any other resource, and a JSON document that it asks for five times a second; the picture is computed
only while somebody looks. `http_server` sees to it that nobody who asks holds up the audio or the others. Everything
from outside is refused unless it is as expected:

- Loopback without a token is open to this machine's users. Any other address needs the token, and so does loopback
  when there is one: once as ?token=…, which becomes a cookie, or as `Authorization: Bearer …`.
- The Host has to be an address or this machine's name (a name of somebody else's that leads here is DNS rebinding),
  and an Origin has to be our own.
"""

import contextlib
import hmac
import ipaddress
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from runtime.audio.hops import Samples
from runtime.bundle.operating_points import OperatingPoint, point_at
from runtime.config_edit import save_operating_points
from runtime.credit import Credit
from runtime.errors import OptionsError
from runtime.options import LOWEST_THRESHOLD, MOST_FALSE_ACCEPTS, OPERATING_POINT
from runtime.sample_rate import SAMPLE_RATE
from runtime.sinks.dashboard.http_request import LONGEST_TARGET, Answer, Refusal, Request
from runtime.sinks.dashboard.http_server import Server
from runtime.sinks.dashboard.picture import Shown
from runtime.sinks.sink import Sink
from runtime.status import Status

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.html")
MOST_COOKIES = 8  # of ours that are looked at: a browser sends one
WRONG_TOKENS = 5  # of one address at once; then one a second


class Dashboard(Sink):
    """The server, running. address: [HOST:]PORT; port 0 takes a free one, and the journal tells which.

    Raises OptionsError when the address cannot be had, or is open to others without a token.
    """

    def __init__(self, status: Status, address: str, token: str | None) -> None:
        host, port = parse_address(address)
        if token is None and not _is_loopback(host):
            raise OptionsError(f"--dashboard {address}: others can reach {host}, so it needs a token: name a file for "
                               "it with --dashboard-token-file, which is made where it is not there")
        self._status = status
        self.shown = Shown(status.hop_samples)
        post = status.journal.post
        routes = Routes(host, token, self.state, self.set_operating_point, post)
        try:
            self._server = Server((host, port), routes.answer, lambda reason: post("dashboard_failed", reason=reason))
        except (OSError, OverflowError, TypeError, ValueError) as error:  # the last two: of a host that is no name
            reason = getattr(error, "strerror", None) or error
            raise OptionsError(f"--dashboard {address}: cannot be served ({reason}): "
                               "choose another port, or an address of this machine") from None
        if port == 0:
            post("dashboard", port=self._server.port)

    def hop(self, hop: Samples) -> None:
        scores = [score for ear in self._status.ears for score in ear.scores]
        self.shown.hop(self._status.journal.time_s, hop, scores)

    def publish(self, detection: dict[str, Any]) -> None:
        self.shown.detections.appendleft({**detection, "clock": time.strftime("%H:%M:%S")})

    def close(self) -> None:
        self._server.close()

    def state(self, number: int) -> dict[str, Any]:
        """What the page shows, with the hops after that one."""
        status = self._status
        several = len(status.ears) > 1
        summary = status.summary()
        pages = 0
        with contextlib.suppress(OSError, ValueError), open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return {
            **self.shown.after(number),
            "keywords": [_knob(keyword, ear.name if several else "", threshold, curve)
                         for ear in status.ears
                         for keyword, threshold, curve in zip(ear.keywords, ear.detector.thresholds,
                                                              ear.engine.operating_points, strict=True)],
            "detections": list(self.shown.detections),
            "counters": {"hops": summary["hops"], "detections": summary["detections"],
                         "clipped hops": summary["clipped_hops"],
                         **{name.replace("_", " "): count for name, count in summary["events"].items()}},
            "time_s": summary["time_s"], "cpu_s": round(time.process_time(), 3), "now_s": round(time.monotonic(), 3),
            "memory_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
            "config": status.config, "hop_s": status.hop_samples / SAMPLE_RATE,
        }

    def set_operating_point(self, keyword: str, option: str, value: float, is_kept: bool) -> None:
        """Use another threshold from now on, and write it into the configuration if wanted. Raises OptionsError.

        option: what the value is of, "threshold" or "false-accepts" (an hour), from which the threshold follows.
        """
        ears = [ear for ear in self._status.ears if keyword in ear.keywords]
        if not ears:
            raise OptionsError("no bundle has that keyword")
        thresholds = [value] * len(ears)
        if option == "false-accepts":
            curves = [ear.engine.operating_points[ear.keywords.index(keyword)] for ear in ears]
            thresholds = [point_at(curve, value, keyword).threshold for curve in curves]
        if is_kept:
            path = self._status.config
            if path is None:
                raise OptionsError("there is no configuration file: start the listener with --config FILE")
            known = [name for ear in self._status.ears for name in ear.keywords]
            save_operating_points(path, option, {keyword: value}, known)
        for ear, threshold in zip(ears, thresholds, strict=True):
            ear.detector.thresholds = [threshold if name == keyword else old
                                       for name, old in zip(ear.keywords, ear.detector.thresholds, strict=True)]


def _knob(keyword: str, bundle: str, threshold: float, curve: Sequence[OperatingPoint]) -> dict[str, Any]:
    """What the page shows of a keyword: its threshold, and its operating points where the bundle has some."""
    shown: dict[str, Any] = {"keyword": keyword, "bundle": bundle, "threshold": round(threshold, 6)}
    if curve:
        shown["points"] = [{"threshold": round(point.threshold, 6), "false_accepts": point.false_accepts_per_hour,
                            "misses": point.misses} for point in curve]
    return shown


def parse_address(address: str) -> tuple[str, int]:
    """[HOST:]PORT → host and port. An IPv6 host stands in brackets. Raises OptionsError."""
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 65536):
        raise OptionsError(f"--dashboard {address}: is not [HOST:]PORT: write a port such as 8765")
    return host.strip("[]") or "127.0.0.1", int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Routes:
    """Request → answer: who may ask, and for what. post: for the journal."""

    def __init__(self, host: str, token: str | None, state: Callable[[int], dict[str, Any]],
                 set_point: Callable[[str, str, float, bool], None], post: Callable[..., None]) -> None:
        self._token, self._state, self._set_point, self._post_event = token, state, set_point, post
        self._cookie = secrets.token_urlsafe(24)  # not the token itself: it ends with this process
        self._tries = Credit(WRONG_TOKENS)
        with open(PAGE, encoding="utf-8") as file:
            self._page = file.read()
        name = socket.gethostname().lower()
        self._names = {"localhost", name, f"{name}.local", host.lower()}

    def answer(self, request: Request) -> Answer:
        """Raises Refusal."""
        headers = request.head.headers
        hosts = headers.get("host", [])
        if len(hosts) != 1:
            raise Refusal(400, "one Host is needed")
        if not self._is_own_name(hosts[0], request.port):
            raise Refusal(421, "that is not a name of this machine: use its address")
        if any(origin not in (f"http://{hosts[0]}", f"https://{hosts[0]}") for origin in headers.get("origin", [])):
            raise Refusal(403, "a page of another origin may not ask")
        return self._get(request) if request.head.method == "GET" else self._post(request)

    def _is_own_name(self, name: str, port: int) -> bool:
        """Whether HOST[:PORT] is an address, which no name server can make lead here, or our own name."""
        try:
            parts = urlsplit(f"//{name[:LONGEST_TARGET]}")
            host = parts.hostname or ""
            if parts.port not in (None, port):
                return False
        except ValueError:
            return False
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host in self._names
        return True

    def _check_token(self, request: Request) -> None:
        """Raises Refusal unless the request has the cookie, or the token."""
        if self._token is None:
            return
        headers = request.head.headers
        cookies = [part.strip() for line in headers.get("cookie", []) for part in line.split(";")]
        good = False
        for cookie in [cookie for cookie in cookies if cookie.startswith("earshot=")][:MOST_COOKIES]:
            good |= _same(cookie, f"earshot={self._cookie}")
        if not good:
            given = "".join(headers.get("authorization", []))
            if not given:
                raise Refusal(401, "a token is needed: open /?token=…")
            self._try(request, given, f"Bearer {self._token}")

    def _try(self, request: Request, given: str, wanted: str) -> None:
        """Raises Refusal unless they are the same, and for an address that has tried too often."""
        if not self._tries.left(request.client):
            raise Refusal(429, "too many wrong tokens: wait a second")
        if not _same(given, wanted):
            self._tries.take(request.client)
            self._post_event("wrong_token", address=request.client)
            raise Refusal(401, "that is not the token")

    def _get(self, request: Request) -> Answer:
        try:
            url = urlsplit(request.head.target)
            query = parse_qs(url.query, max_num_fields=4)
        except ValueError:
            raise Refusal(400, "the address makes no sense") from None
        if url.path == "/" and "token" in query and self._token is not None:
            self._try(request, query["token"][0], self._token)
            # Away from the address line and the browser's history, and never sent along from other sites.
            return Answer(303, "", {"Location": "/", "Set-Cookie":
                                    f"earshot={self._cookie}; HttpOnly; SameSite=Strict; Path=/"})
        self._check_token(request)
        if url.path == "/":
            nonce = secrets.token_urlsafe(12)
            return Answer(200, self._page.replace("@NONCE@", nonce), {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Security-Policy": f"default-src 'none'; script-src 'nonce-{nonce}'; "
                f"style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; base-uri 'none'; "
                "form-action 'none'; frame-ancestors 'none'"})
        if url.path == "/state":
            after = query.get("after", ["0"])[0]
            if not (after.isascii() and after.isdecimal() and len(after) < 16):
                raise Refusal(400, "after is not a number")
            return Answer(200, json.dumps(self._state(int(after))))
        raise Refusal(404, "there is / and /state")

    def _post(self, request: Request) -> Answer:
        self._check_token(request)
        if request.head.target != "/threshold":
            raise Refusal(404, "there is /threshold")
        kinds = request.head.headers.get("content-type", [])
        if [kind.partition(";")[0].strip().lower() for kind in kinds] != ["application/json"]:
            raise Refusal(415, "application/json is needed")  # what no form of another page can send
        try:
            wish = json.loads(request.body)
            keyword, is_kept = wish["keyword"], wish.get("save", False)
            ((option, value),) = [(name, wish[name]) for name in OPERATING_POINT if name in wish]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Refusal(400, "keyword, and threshold or false-accepts, are needed") from None
        low, high = (LOWEST_THRESHOLD, 1) if option == "threshold" else (0, MOST_FALSE_ACCEPTS)
        if not (isinstance(keyword, str) and type(value) in (int, float) and low <= value <= high
                and isinstance(is_kept, bool)):
            raise Refusal(400, f"a keyword is a text, {option} is in {low}…{high:g}, save is true or false")
        try:
            self._set_point(keyword, option, float(value), is_kept)
        except OptionsError as error:
            raise Refusal(409, str(error)) from None
        return Answer(200, "{}")


def _same(one: str, other: str) -> bool:
    """In constant time, as far as their lengths allow."""
    return hmac.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))
