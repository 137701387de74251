"""Who means harm to the dashboard, over real sockets: each harm is kept off, and is done without what keeps it off."""

import contextlib
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from page import TOKEN, Page, token_file
from programs import cpu, descriptors, eventually, memory, weakened
from toy import write_bundle

FLOODS = Path(__file__).with_name("floods.py")
SERVER = "runtime/sinks/dashboard/http_server.py"
GET = b"GET /state HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def page(listen, toy, tmp_path):
    """page(changes…, arguments=…): a listener with a dashboard, whose source has these changes."""
    made: list[Page] = []

    def make(*changes: tuple[str, str, str], arguments: tuple[object, ...] = ()) -> Page:
        program = weakened(tmp_path / f"program{len(made)}", *changes) / "runtime" / "listen.py"
        made.append(Page(lambda *given, **options: listen(*given, script=program, **options), toy, *arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


@contextlib.contextmanager
def connected(page: Page, count: int, *, client: str = "127.0.0.1", say: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections from that address."""
    sockets = []
    try:
        for _ in range(count):
            sockets.append(socket.create_connection(("127.0.0.1", page.port), 10, source_address=(client, 0)))
            with contextlib.suppress(OSError):
                sockets[-1].sendall(say)
        yield sockets
    finally:
        for one in sockets:
            one.close()


def flood(page: Page, data: bytes, seconds: float) -> bytes:
    """Send the same as often as it is taken → the answer."""
    end = time.monotonic() + seconds
    with connected(page, 1, say=data) as (one,):
        one.settimeout(0.2)
        while time.monotonic() < end:
            try:
                one.sendall(data)
            except TimeoutError:
                continue
            except OSError:
                break
        with contextlib.suppress(OSError):
            return one.recv(100)
    return b""


def peak(page: Page, act) -> float:
    """MB that the process had more while that was done, at most."""
    pid = page.lines.process.pid
    before, highest = memory(pid), 0.0
    thread = threading.Thread(target=act)
    thread.start()
    while thread.is_alive():
        highest = max(highest, memory(pid) - before)
        time.sleep(0.005)
    return highest


# Memory

LARGE = ("runtime/sinks/dashboard/http_request.py", "LARGEST_HEAD = 16 << 10", "LARGEST_HEAD = 1 << 30")


@pytest.mark.parametrize(("begin", "chunk"), [(GET + b"X: ", b"\r" * 60_000), (b"GET /", b"a" * 60_000)],
                         ids=["bare carriage returns", "request line"])
def test_headers_without_end(page, begin, chunk):
    def attack(target: Page) -> None:
        with connected(target, 4, say=begin) as sockets:
            for _ in range(100):  # 6 MB each
                for one in sockets:
                    with contextlib.suppress(OSError):
                        one.sendall(chunk)

    real = page()
    assert real.ask()[0] == 200
    assert peak(real, lambda: attack(real)) < 3
    assert real.ask()[0] == 200
    weak = page(LARGE)
    assert peak(weak, lambda: attack(weak)) > 10


def test_the_answer_to_headers_without_end(page):
    answer = flood(page(), GET + b"X: " + b"\r" * 60_000, 0.5)
    assert answer.startswith(b"HTTP/1.0 431 ")


# Connections

ANY = [(SERVER, "MOST = 48", "MOST = 10**6"), (SERVER, "MOST_OF_ONE = 16", "MOST_OF_ONE = 10**6")]
NO_ROOM = (SERVER, "            self._make_room(connection.client)\n",
           "            if len(self._connections) >= 16:\n                own.close()\n                continue\n")


def test_connections_that_say_nothing(page):
    def attack(target: Page) -> tuple[int, float]:
        pid = target.lines.process.pid
        before = descriptors(pid)
        with connected(target, 100, say=b"GET"):
            assert eventually(lambda: descriptors(pid) > before)
            time.sleep(0.5)  # for all that are taken
            open_now = descriptors(pid) - before
            began = time.monotonic()
            try:
                target.ask()
            except OSError:
                return open_now, 99.0
            return open_now, time.monotonic() - began

    real = page()
    real.ask()
    count, seconds = attack(real)
    assert count <= 17 and seconds < 1
    without_limits, without_room = page(*ANY), page(NO_ROOM)
    assert attack(without_limits)[0] > 90
    assert attack(without_room)[1] == 99.0


def test_the_others_places_are_theirs(page):
    def attack(target: Page) -> bool:
        """Whether somebody who has asked half a question gets an answer to the whole."""
        with connected(target, 1, client="127.0.0.2", say=GET) as (slow,):
            time.sleep(0.2)
            with connected(target, 100, say=b"GET"), contextlib.suppress(OSError):
                slow.sendall(b"\r\n")
                return slow.recv(100).startswith(b"HTTP/1.0 200")
        return False

    assert attack(page())
    assert not attack(page((SERVER, "MOST_OF_ONE = 16", "MOST_OF_ONE = 10**6"), (SERVER, "MOST = 48", "MOST = 16"), (
        SERVER, "            client = max(counts, key=counts.__getitem__)\n",
        "            client = next(iter(self._connections)).client\n")))


def test_without_descriptors_the_processor_is_left_to_the_audio(page):
    def attack(target: Page) -> float:
        pid = target.lines.process.pid
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid) + 5, most))
        with connected(target, 20):
            return cpu(pid, 1.5)

    real = page()
    share = attack(real)
    assert share < 0.2
    assert "Too many open files" in real.lines.until(5, event="dashboard_failed")["reason"]
    assert attack(page((SERVER, "time.sleep(max(REST, RESTED * (time.monotonic() - began)))", "pass"))) > 3 * share


def test_all_at_once(page):
    """As long as others want the processor too, this says little; tests/attacks/test_floods.py says more."""
    target = page()
    command = [sys.executable, FLOODS, "dashboard", str(target.port), "3"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as flooding:
        assert cpu(target.lines.process.pid, 1) < 0.45
        while flooding.poll() is None:
            assert target.ask()[0] == 200


# Tokens


def test_wrong_tokens(page, tmp_path):
    token = token_file(tmp_path / "token")

    def attack(target: Page) -> list[int]:
        return [target.ask(path=f"/?token={number}")[0] for number in range(10)] + [
            target.ask(Authorization=f"Bearer {number}")[0] for number in range(10)]

    real = page(arguments=("--dashboard-token-file", token))
    cookie = real.ask(path=f"/?token={TOKEN}")[1]["Set-Cookie"].split(";")[0]
    codes = attack(real)
    assert codes[:5] == [401] * 5 and codes.count(401) <= 7 and set(codes) == {401, 429}
    assert real.lines.until(5, event="wrong_token")["address"] == "127.0.0.1"
    assert real.ask(path=f"/?token={TOKEN}")[0] == 429 and real.ask(Cookie=cookie)[0] == 200
    time.sleep(1.1)
    assert real.ask(path=f"/?token={TOKEN}")[0] == 303
    weak = page(("runtime/sinks/dashboard/page.py", "WRONG_TOKENS = 5", "WRONG_TOKENS = 10**6"),
                arguments=("--dashboard-token-file", token))
    assert attack(weak) == [401] * 20


def test_the_token_is_made_where_there_is_none_and_opens_the_page(page, tmp_path):
    path = tmp_path / "made"
    target = page(arguments=("--dashboard-token-file", path))
    token = path.read_text().strip()
    assert target.lines.seen[0]["event"] == "token_made" and target.lines.seen[0]["file"] == str(path)
    assert path.stat().st_mode & 0o777 == 0o600 and len(token) == 32
    assert target.ask()[0] == 401 and target.ask(Authorization=f"Bearer {token}")[0] == 200


def test_a_changed_token_is_the_token_after_a_reload(page, tmp_path):
    token = token_file(tmp_path / "token")

    def attack(target: Page) -> tuple[int, int, int]:
        """What the old token, the old cookie and the new token get after the reload."""
        token_file(token)
        cookie = target.ask(path=f"/?token={TOKEN}")[1]["Set-Cookie"].split(";")[0]
        token_file(token, "another-0123456789-secret")
        target.reload()
        return (target.ask(Authorization=f"Bearer {TOKEN}")[0], target.ask(Cookie=cookie)[0],
                target.ask(Authorization="Bearer another-0123456789-secret")[0])

    assert attack(page(arguments=("--dashboard-token-file", token))) == (401, 401, 200)
    token_file(token)
    weak = page(("runtime/sinks/opened.py", '("dashboard", "dashboard_token")',
                 '("dashboard", "dashboard_token_file")'),
                arguments=("--dashboard-token-file", token))
    assert attack(weak) == (200, 200, 401)
