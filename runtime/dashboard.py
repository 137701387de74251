"""A page that shows what the listener hears: level, mel picture, score against threshold, detections, counters.

One page without any other resource, and a JSON document that it asks for five times a second. Served by the standard
library, from threads of its own; the picture is computed only while somebody looks. Everything from outside is
refused unless it is as expected:

- Loopback is open to this machine's users. Any other address, and loopback with a token, needs the token: once as
  ?token=…, which becomes a cookie, or as `Authorization: Bearer …`.
- The Host has to be an address or this machine's name (a name of somebody else's that leads here is DNS rebinding),
  and an Origin has to be our own.
- A request is small, and comes within seconds. There are only so many connections at a time.
"""

import contextlib
import hmac
import ipaddress
import json
import math
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from runtime.audio import SAMPLE_RATE, Samples
from runtime.meter import level
from runtime.options import OptionsError, read_secret, save_thresholds

if TYPE_CHECKING:
    from runtime.listener import Listener

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "dashboard.html")
SHOWN_SECONDS = 10.0
PEAKS = 8  # of the waveform, per hop
DETECTIONS = 20
LARGEST_BODY = 1024  # bytes
SECONDS = 5.0  # for a request to come and its answer to go
CONNECTIONS = 16
SHORTEST_TOKEN = 16  # characters

# The front end that the models have inside (the README's contract), for the picture only.
N_FFT, FRAME_STEP, MELS, FLOOR = 400, 160, 40, 1e-9


def mel_weights() -> NDArray[np.float32]:
    """HTK triangles, (N_FFT // 2 + 1, MELS)."""
    edges = 700 * (10 ** (np.linspace(0, 2595 * math.log10(1 + 8000 / 700), MELS + 2) / 2595) - 1)
    bins = np.linspace(0, 8000, N_FFT // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(samples: Samples, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) → (frames, MELS): natural logarithm of the energy of 25 ms every 10 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[::FRAME_STEP]
    spectrum = np.fft.rfft(frames * np.hanning(N_FFT + 1)[:-1].astype(np.float32))
    return np.log(np.maximum((np.abs(spectrum) ** 2).astype(np.float32) @ weights, FLOOR))


class Shown:
    """What the page may ask for: the last seconds, kept by the listener's thread and read by the server's."""

    def __init__(self, hop_samples: int) -> None:
        self._tail = np.zeros(N_FFT - FRAME_STEP, np.float32)
        self._weights: NDArray[np.float32] | None = None
        self._lock = threading.Lock()
        self._hops: deque[tuple[int, float, Samples, list[float]]] = deque(
            maxlen=math.ceil(SHOWN_SECONDS * SAMPLE_RATE / hop_samples))
        self._number = 0
        self.detections: deque[dict[str, Any]] = deque(maxlen=DETECTIONS)

    def hop(self, time_s: float, hop: Samples, scores: list[float]) -> None:
        """Note a hop. Cheap, as it is done for every one."""
        with self._lock:
            self._number += 1
            self._hops.append((self._number, time_s, np.concatenate((self._tail, hop)), scores))
            self._tail = self._hops[-1][2][-len(self._tail):]

    def after(self, number: int) -> dict[str, Any]:
        """All hops after that one, with their pictures: bytes 0…255 of 40 mels per frame, as a hexadecimal text."""
        with self._lock:
            last = self._number
            hops = [hop for hop in self._hops if hop[0] > (number if number <= last else 0)]  # above: of another run
        if self._weights is None:
            self._weights = mel_weights()
        shown = []
        for _, time_s, samples, scores in hops:
            heights = (log_mel(np.nan_to_num(samples), self._weights) + 14) * (255 / 20)  # -14…6 is what rooms give
            picture = np.clip(heights, 0, 255).astype(np.uint8)
            audio = samples[len(self._tail):]
            peaks = [round(float(np.abs(part).max()), 3) for part in np.array_split(audio, PEAKS)]
            shown.append({"time_s": round(time_s, 3), "level": round(level(audio), 1), "peaks": peaks,
                          "scores": [round(score, 4) for score in scores], "mel": picture.tobytes().hex()})
        return {"last": last, "hops": shown}


class Dashboard:
    """The server, running. address: [HOST:]PORT; port 0 takes a free one, and the journal tells which.

    Raises OptionsError when the address cannot be had, or is open to others without a token.
    """

    def __init__(self, listener: "Listener", address: str, token_file: str | None) -> None:
        host, port = parse_address(address)
        token = None if token_file is None else read_secret(token_file)
        if token is not None and len(token) < SHORTEST_TOKEN:
            raise OptionsError(f"{token_file}: a token of less than {SHORTEST_TOKEN} characters can be guessed: write "
                               "a longer one there, for example of: openssl rand -hex 16")
        if token is None and not _is_loopback(host):
            raise OptionsError(f"--dashboard {address}: others can reach {host}, so it needs a token: write a secret "
                               "into a file and name it with --dashboard-token-file")
        self._listener = listener
        self.shown = Shown(listener.hop_samples)
        try:
            self._server = Server((host, port), token, self.state, self.set_threshold)
        except (OSError, OverflowError, TypeError) as error:  # TypeError: of a host that is no name
            reason = getattr(error, "strerror", None) or error
            raise OptionsError(f"--dashboard {address}: cannot be served ({reason}): "
                               "choose another port, or an address of this machine") from None
        if port == 0:
            listener.journal.post("dashboard", port=self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.2,), daemon=True).start()

    def hop(self, hop: Samples) -> None:
        scores = [score for ear in self._listener.ears for score in ear.scores]
        self.shown.hop(self._listener.journal.time_s, hop, scores)

    def publish(self, detection: dict[str, Any]) -> None:
        self.shown.detections.appendleft({**detection, "clock": time.strftime("%H:%M:%S")})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def state(self, number: int) -> dict[str, Any]:
        """What the page shows, with the hops after that one."""
        listener = self._listener
        several = len(listener.ears) > 1
        summary = listener.summary()
        pages = 0
        with contextlib.suppress(OSError, ValueError), open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return {
            **self.shown.after(number),
            "keywords": [{"keyword": keyword, "bundle": ear.name if several else "", "threshold": round(threshold, 6)}
                         for ear in listener.ears
                         for keyword, threshold in zip(ear.keywords, ear.detector.thresholds, strict=True)],
            "detections": list(self.shown.detections),
            "counters": {"hops": summary["hops"], "detections": summary["detections"],
                         "clipped hops": summary["clipped_hops"],
                         **{name.replace("_", " "): count for name, count in summary["events"].items()}},
            "time_s": summary["time_s"], "cpu_s": round(time.process_time(), 3), "now_s": round(time.monotonic(), 3),
            "memory_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
            "config": listener.options.config, "hop_s": listener.hop_samples / SAMPLE_RATE,
        }

    def set_threshold(self, keyword: str, threshold: float, is_kept: bool) -> None:
        """Use another threshold from now on, and write it into the configuration if wanted. Raises OptionsError."""
        ears = [ear for ear in self._listener.ears if keyword in ear.keywords]
        if not ears:
            raise OptionsError("no bundle has that keyword")
        if is_kept:
            path = self._listener.options.config
            if path is None:
                raise OptionsError("there is no configuration file: start the listener with --config FILE")
            save_thresholds(path, {keyword: threshold})
        for ear in ears:
            ear.detector.thresholds = [threshold if name == keyword else old
                                       for name, old in zip(ear.keywords, ear.detector.thresholds, strict=True)]


def parse_address(address: str) -> tuple[str, int]:
    """[HOST:]PORT → host and port. An IPv6 host stands in brackets. Raises OptionsError."""
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise OptionsError(f"--dashboard {address}: is not [HOST:]PORT: write a port such as 8765")
    return host.strip("[]") or "127.0.0.1", int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server(ThreadingHTTPServer):
    """Answers small requests of few clients; a slow one is cut off."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = CONNECTIONS

    def __init__(self, address: tuple[str, int], token: str | None, state: Callable[[int], dict[str, Any]],
                 set_threshold: Callable[[str, float, bool], None]) -> None:
        self.token, self.state, self.set_threshold = token, state, set_threshold
        self.cookie = secrets.token_urlsafe(24)  # not the token itself: it ends with this process
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        with open(PAGE, encoding="utf-8") as file:
            self.page = file.read()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)
        self.names = {"localhost", socket.gethostname().lower(), f"{socket.gethostname().lower()}.local",
                      address[0].lower()}

    def server_bind(self) -> None:
        # Without HTTPServer's search for the machine's full name, which may ask a name server and wait for it.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._lock:
            if len(self._open) >= CONNECTIONS:
                return False
            self._open[request] = time.monotonic() + SECONDS
        request.settimeout(SECONDS)
        return True

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Five times a second: cut off who is at it for too long, a byte at a time."""
        now = time.monotonic()
        with self._lock:
            late = [connection for connection, end in self._open.items() if now > end]
        for connection in late:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""

    def is_own_name(self, name: str) -> bool:
        """Whether HOST[:PORT] is an address, which no name server can make lead here, or our own name."""
        try:
            host = urlsplit(f"//{name}").hostname or ""
            if urlsplit(f"//{name}").port not in (None, self.server_address[1]):
                return False
        except ValueError:
            return False
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host in self.names
        return True


class Refusal(Exception):
    """A request that gets a 4xx: the code and a text for whoever sent it."""


class Handler(BaseHTTPRequestHandler):
    """One request of one connection."""

    server: Server
    default_request_version = "HTTP/1.0"  # with 0.9, its own default, errors would have no status line
    server_version = "earshot"
    sys_version = ""

    def log_message(self, *_: Any) -> None:
        """Requests are nothing to write home about."""

    def send_response_only(self, code: int, message: str | None = None) -> None:
        self.request_version = "HTTP/1.0"  # whoever claims 0.9 gets a status line all the same
        super().send_response_only(code, message)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, act: Callable[[], None]) -> None:
        try:
            self._check()
            act()
        except Refusal as refusal:
            self._send(refusal.args[0], json.dumps({"error": refusal.args[1]}))

    def _check(self) -> None:
        """Raises Refusal unless it comes from where it may. The token is checked where it is known how it came."""
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if len(hosts) != 1:
            raise Refusal(400, "one Host is needed")
        if not self.server.is_own_name(hosts[0]):
            raise Refusal(421, "that is not a name of this machine: use its address")
        if any(origin not in (f"http://{hosts[0]}", f"https://{hosts[0]}") for origin in origins):
            raise Refusal(403, "a page of another origin may not ask")

    def _check_token(self) -> None:
        if self.server.token is None:
            return
        given = self.headers.get("Authorization", "")
        cookies = [part.strip() for part in self.headers.get("Cookie", "").split(";")]
        good = _same(given, f"Bearer {self.server.token}")
        for cookie in cookies:
            good |= _same(cookie, f"earshot={self.server.cookie}")
        if not good:
            raise Refusal(401, "a token is needed: open /?token=…")

    def _get(self) -> None:
        try:
            url = urlsplit(self.path)
            query = parse_qs(url.query, max_num_fields=4)
        except ValueError:
            raise Refusal(400, "the address makes no sense") from None
        if url.path == "/" and "token" in query and self.server.token is not None:
            if not _same(query["token"][0], self.server.token):
                raise Refusal(401, "that is not the token")
            # Away from the address line and the browser's history, and never sent along from other sites.
            self._send(303, "", {"Location": "/", "Set-Cookie":
                                 f"earshot={self.server.cookie}; HttpOnly; SameSite=Strict; Path=/"})
            return
        self._check_token()
        if url.path == "/":
            nonce = secrets.token_urlsafe(12)
            self._send(200, self.server.page.replace("@NONCE@", nonce), {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Security-Policy": f"default-src 'none'; script-src 'nonce-{nonce}'; "
                f"style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; base-uri 'none'; "
                "form-action 'none'; frame-ancestors 'none'"})
        elif url.path == "/state":
            after = query.get("after", ["0"])[0]
            if not (after.isascii() and after.isdecimal() and len(after) < 16):
                raise Refusal(400, "after is not a number")
            self._send(200, json.dumps(self.server.state(int(after))))
        else:
            raise Refusal(404, "there is / and /state")

    def _post(self) -> None:
        self._check_token()
        if self.path != "/threshold":
            raise Refusal(404, "there is /threshold")
        if self.headers.get_content_type() != "application/json":  # what no form of another page can send
            raise Refusal(415, "application/json is needed")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise Refusal(411, "Content-Length is needed")
        if len(length) > 9 or int(length) > LARGEST_BODY:
            raise Refusal(413, f"more than {LARGEST_BODY} bytes")
        try:
            body = self.rfile.read(int(length))
        except OSError:
            raise Refusal(408, "it did not come") from None
        try:
            wish = json.loads(body)
            keyword, threshold, is_kept = wish["keyword"], wish["threshold"], wish.get("save", False)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Refusal(400, "keyword and threshold are needed") from None
        if (not isinstance(keyword, str) or type(threshold) not in (int, float) or not 0 < threshold <= 1
                or not isinstance(is_kept, bool)):
            raise Refusal(400, "a keyword is a text, a threshold is above 0 and at most 1, save is true or false")
        try:
            self.server.set_threshold(keyword, float(threshold), is_kept)
        except OptionsError as error:
            raise Refusal(409, str(error)) from None
        self._send(200, "{}")

    def _send(self, code: int, text: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)),
                            "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
                            "Referrer-Policy": "no-referrer", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)


def _same(one: str, other: str) -> bool:
    """In constant time, as far as their lengths allow."""
    return hmac.compare_digest(one.encode(errors="replace"), other.encode(errors="replace"))
