"""A server for the few who look at a page, which stays one whatever the many do to it.

One thread takes turns with all connections. A turn is one read or one write, and after each round it rests, so that it
never needs more than a third of a processor, even for what is ready again at once. Of the connections of one address,
and of all, there are only so many; who comes gets the place of the oldest, and nobody has one for longer than SECONDS.
"""

import contextlib
import ipaddress
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from runtime.sinks.dashboard.http_request import LARGEST_HEAD, Answer, Head, Refusal, Request, refused, take_head

SECONDS = 5.0  # for a request to come, its answer to go, and the client to hang up
MOST = 48  # connections
MOST_OF_ONE = 16  # of one address
ACCEPTED = 64  # in one round
REST = 0.005  # seconds after a round, and at least RESTED times what the round took
RESTED = 2
BUFFER = 64 << 10  # bytes that the kernel keeps of a connection each way, before it doubles them


class _Connection:
    """One request, its answer, and what the client still says when it has been answered."""

    def __init__(self, own: socket.socket, client: str) -> None:
        self.own, self.client = own, client
        self.end = time.monotonic() + SECONDS
        self.received = bytearray()
        self.head: tuple[Head, int] | None = None
        self.to_send = b""
        self.is_answered = False

    def request(self, port: int) -> Request | None:
        """The request, when all of it is there. Raises Refusal."""
        self.head = self.head or take_head(self.received)
        if self.head is None:
            return None
        head, size = self.head
        if len(self.received) < size + head.length:
            return None
        return Request(head, bytes(self.received[size : size + head.length]), self.client, port)


class Server:
    """Answers requests until it is closed. address: host and port; port 0 takes a free one.

    answer(request): may raise Refusal. failed(reason): is told what else went wrong. Both are called by its thread.
    Raises OSError, and ValueError or TypeError when the host is no name.
    """

    def __init__(self, address: tuple[str, int], answer: Callable[[Request], Answer],
                 failed: Callable[[str], None]) -> None:
        self._answer, self._failed = answer, failed
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._is_closed = False
        self._listening = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        try:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # of what is accepted there: it is our memory too
                self._listening.setsockopt(socket.SOL_SOCKET, option, BUFFER)
            self._listening.bind(address)
            self._listening.listen(128)
        except BaseException:
            self._listening.close()
            raise
        self._listening.setblocking(False)
        self.port: int = self._listening.getsockname()[1]
        self._woken, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_closed = True
        self._wake.send(b"!")
        self._thread.join(1)

    # The thread

    def _run(self) -> None:
        while not self._is_closed:
            ready = self._selector.select(self._patience())
            began = time.monotonic()
            for key, _ in ready:
                if key.fileobj is self._listening:
                    self._accept()
                elif key.data is not None and key.data in self._connections:  # it may have made room in this round
                    self._turn(key.data)
            self._end_late()
            time.sleep(max(REST, RESTED * (time.monotonic() - began)))
        for connection in list(self._connections):
            self._drop(connection)
        self._selector.close()
        for own in (self._listening, self._woken, self._wake):
            own.close()

    def _patience(self) -> float | None:
        """Seconds until something has to be done though nothing comes."""
        oldest = next(iter(self._connections), None)
        return None if oldest is None else max(0.0, oldest.end - time.monotonic())

    def _end_late(self) -> None:
        now = time.monotonic()
        while self._connections and (oldest := next(iter(self._connections))).end <= now:
            self._drop(oldest)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection]
        self._selector.unregister(connection.own)
        connection.own.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTED):
            try:
                own, address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no more descriptors; there may be in the next round
                self._failed(f"no connection can be taken: {error.strerror}")
                return
            connection = _Connection(own, client_of(address))
            self._make_room(connection.client)
            own.setblocking(False)
            self._connections[connection] = None
            self._selector.register(own, selectors.EVENT_READ, connection)
            self._turn(connection)  # what it says has most often come already

    def _make_room(self, client: str) -> None:
        """The oldest goes: of that client when it has as many as one may have, else of whoever has most."""
        counts = Counter(connection.client for connection in self._connections)
        if counts[client] < MOST_OF_ONE:
            if len(self._connections) < MOST:
                return
            client = max(counts, key=counts.__getitem__)
        self._drop(next(connection for connection in self._connections if connection.client == client))

    def _turn(self, connection: _Connection) -> None:
        try:
            if connection.to_send:
                self._write(connection)
            else:
                self._read(connection)
        except BlockingIOError:
            pass
        except Exception:  # most often that it has gone; whatever it is, it is of this one alone
            self._drop(connection)

    def _read(self, connection: _Connection) -> None:
        data = connection.own.recv(LARGEST_HEAD)
        if not data:
            self._drop(connection)
        elif not connection.is_answered:  # what comes after the answer is read all the same: else it would get lost
            connection.received += data
            if (answer := self._answered(connection)) is not None:
                connection.to_send, connection.is_answered = answer.encode(), True
                self._write(connection)

    def _answered(self, connection: _Connection) -> Answer | None:
        try:
            request = connection.request(self.port)
            return None if request is None else self._answer(request)
        except Refusal as refusal:
            return refused(refusal)
        except Exception as error:  # a mistake of ours must not end this thread
            self._failed(f"{type(error).__name__}: {error}"[:200])
            return refused(Refusal(500, "this did not work"))

    def _write(self, connection: _Connection) -> None:
        with contextlib.suppress(BlockingIOError):
            connection.to_send = connection.to_send[connection.own.send(connection.to_send) :]
        if not connection.to_send:
            connection.own.shutdown(socket.SHUT_WR)
        self._selector.modify(connection.own, selectors.EVENT_WRITE if connection.to_send else selectors.EVENT_READ,
                              connection)


def client_of(address: Any) -> str:
    """An address as the system tells it → what is one client's: an IPv4 address, or a network of IPv6 (its /64)."""
    found = ipaddress.ip_address(address[0].partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False).network_address)
    return str(getattr(found, "ipv4_mapped", None) or found)
