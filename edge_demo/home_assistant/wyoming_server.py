"""A Wyoming wake-word server: Home Assistant and its satellites send audio, and get the detections.

    python edge_demo/home_assistant/wyoming_server.py --bundle dist/happy-ensemble     # this machine only
    python edge_demo/home_assistant/wyoming_server.py --bundle dist/happy-ensemble --uri tcp://0.0.0.0:10400

Then in Home Assistant: Settings, Devices & services, Add integration, Wyoming Protocol, host and port; and choose the
keyword in the voice assistant's settings. The protocol has no password: open it to trusted networks only.

A conversation is `describe` → `info`, and `detect` (names of keywords, none means all), `audio-start`, `audio-chunk`…,
`audio-stop` → `detection` for every event, or one `not-detected` when the audio stopped without any. Several audios
may follow each other; each starts from zero state. Needs `pip install wyoming`, and soxr where audio is not at 16 kHz.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import Counter
from typing import Any, NoReturn
from urllib.parse import urlsplit

if not __package__:  # run as a script: find the folder that holds the rooms
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

try:
    from edge_demo.home_assistant.conversation import Bundles, Conversation, Refused, plain
except ModuleNotFoundError as missing:
    print(f"wyoming_server: error: {missing.name} is not installed: pip install {missing.name}", file=sys.stderr)
    sys.exit(2)
from edge_demo.home_assistant.messages import LONGEST_LINE, Malformed
from runtime.audio.hops import AudioError
from runtime.bundle.engine import Engine
from runtime.bundle.trial import try_out
from runtime.credit import Credit
from runtime.errors import BundleError, OptionsError
from runtime.options import exclude_each_other, read_false_accepts, read_thresholds
from runtime.sinks.dashboard.http_server import client_of

MOST_CONNECTIONS = 32
MOST_OF_ONE = 16  # of one address: Home Assistant has one for each of its satellites
CLOSE_SECONDS = 5.0  # to send the rest on a connection that ends
BUFFER = 32 << 10  # bytes that the kernel keeps of a connection each way, before it doubles them
LINES = 100  # on stderr at once; then one a second


class Server:
    """Accepts connections until it is ended. A fault of one does not affect the others."""

    def __init__(self, bundles: Bundles) -> None:
        self._bundles = bundles
        self._open: dict[asyncio.Task[None], Conversation] = {}
        self._credit = Credit(LINES)

    async def serve(self, host: str, port: int) -> None:
        """Until SIGTERM or SIGINT. Raises OSError when it cannot listen on the address."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        # Without free descriptors asyncio tries again after a second, and calls this.
        loop.set_exception_handler(lambda _, context: self._log(f"{context.get('exception') or context['message']}"))
        server = await asyncio.start_server(self._accept, host, port, limit=LONGEST_LINE)
        for listening in server.sockets:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # of what is accepted there
                listening.setsockopt(socket.SOL_SOCKET, option, BUFFER)
            address = listening.getsockname()
            log(f"listening on tcp://{host_and_port(address)} for {', '.join(self._bundles.keywords())}")
        await ended.wait()
        server.close()
        open_now = list(self._open)
        for task in open_now:
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        log(f"ended, {len(open_now)} connections closed")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peername = writer.get_extra_info("peername")
        task = asyncio.current_task()
        assert task is not None
        if peername is None:  # closed already
            writer.transport.abort()
            return
        conversation = Conversation(self._bundles, reader, writer, client_of(peername))
        self._make_room(conversation.client)
        self._open[task] = conversation
        try:
            # A satellite that lost its power closes nothing; keep-alives detect that after a minute.
            own: socket.socket = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, option):
                    own.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
            await self._run(host_and_port(peername), conversation)
            writer.close()
            async with asyncio.timeout(CLOSE_SECONDS):
                await writer.wait_closed()
        except (asyncio.CancelledError, OSError):
            pass
        finally:
            self._open.pop(task, None)
            writer.transport.abort()

    def _make_room(self, client: str) -> None:
        """Close a connection if there are too many: of this client at its limit, else of the client with most."""
        counts = Counter(conversation.client for conversation in self._open.values())
        if counts[client] < MOST_OF_ONE:
            if len(self._open) < MOST_CONNECTIONS:
                return
            client = max(counts, key=counts.__getitem__)
        theirs = [task for task, conversation in self._open.items() if conversation.client == client]
        least = min(theirs, key=lambda task: self._open[task].worth())
        self._log(f"{client}: connection ended: there are too many")
        least.cancel()
        del self._open[least]

    async def _run(self, peer: str, conversation: Conversation) -> None:
        try:
            await conversation.run()
        except Malformed as error:
            self._log(f"{peer}: connection ended: {error}")
        except (Refused, AudioError) as error:
            self._log(f"{peer}: connection ended: {error}")
            with contextlib.suppress(OSError):
                await conversation.refuse(str(error))
        except OSError as error:  # ConnectionError and TimeoutError too
            self._log(f"{peer}: connection lost: {error.strerror or type(error).__name__}")
        except Exception as error:
            self._log(f"{peer}: connection ended: internal error: {type(error).__name__}: {error}")

    def _log(self, message: str) -> None:
        """Log what a client causes, at a bounded rate, so that it cannot fill a disk."""
        if self._credit.take("line"):
            log(message)


def host_and_port(name: Any) -> str:
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def log(message: str) -> None:
    """One line on stderr, whatever is in the message."""
    line = " ".join(message.split())[:500]
    print(f"wyoming_server: {''.join(c if c.isprintable() else '?' for c in line)}", file=sys.stderr, flush=True)


def fail(message: str) -> NoReturn:
    log(f"error: {message}")
    raise SystemExit(2)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message}: see --help")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="wyoming_server.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", metavar="DIR", nargs="+", required=True, help="folders that an export made")
    parser.add_argument("--uri", default="tcp://127.0.0.1:10400", help="address to listen on (default: %(default)s); "
                        "port 0 takes a free one")
    parser.add_argument("--model", metavar="FILE", help="model of the bundles (default: the manifest's)")
    parser.add_argument("--threshold", metavar="[KEYWORD=]T", action="append", default=[],
                        help="replaces the manifest's threshold, 0…1, of one keyword or of all; may be given again")
    parser.add_argument("--false-accepts", metavar="[KEYWORD=]RATE", action="append", default=[],
                        help="at most so many an hour: the threshold follows from what the bundle has measured")
    return parser.parse_args(arguments)


def open_bundles(options: argparse.Namespace) -> Bundles:
    """Load every bundle. Raises BundleError and OptionsError, exits on mistakes."""
    engines: dict[str, Engine] = {}
    owners: dict[str, str] = {}
    for folder in options.bundle:
        engines[folder] = Engine(folder, options.model, try_out(folder, options.model))
        for keyword in engines[folder].keywords:
            if owners.setdefault(plain(keyword), folder) != folder:
                fail(f"{keyword} is in both {owners[plain(keyword)]} and {folder}: leave one of them out")
    known = [keyword for engine in engines.values() for keyword in engine.keywords]
    given = []
    for flag, read, told in (("--threshold", read_thresholds, options.threshold),
                             ("--false-accepts", read_false_accepts, options.false_accepts)):
        try:
            given.append(read(told))
        except ValueError as error:
            fail(f"{flag} must be {error}")
        for name in given[-1]:
            if name and name not in known:
                fail(f"{flag}: no keyword {name}: choose from {', '.join(known)}")
    if exclude_each_other(*given):
        fail("--threshold and --false-accepts exclude each other: keep one")
    return Bundles(engines, {folder: engine.chosen_thresholds(*given) for folder, engine in engines.items()})


def address(uri: str) -> tuple[str, int]:
    """tcp://HOST:PORT → host and port. Exits on anything else."""
    try:
        parts = urlsplit(uri)
        if parts.scheme == "tcp" and parts.hostname and parts.port is not None and not parts.path.strip("/"):
            return parts.hostname, parts.port
    except ValueError:
        pass
    fail(f"--uri {uri}: is not tcp://HOST:PORT, for example tcp://127.0.0.1:10400")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    host, port = address(options.uri)
    try:
        asyncio.run(Server(open_bundles(options)).serve(host, port))
    except (BundleError, OptionsError) as error:
        fail(str(error))
    except (OSError, UnicodeError) as error:  # the latter of a host that is no name
        reason = getattr(error, "strerror", None) or error
        fail(f"--uri {options.uri}: cannot listen there ({reason}): choose another, or end what does")
    return 0


if __name__ == "__main__":
    sys.exit(main())
