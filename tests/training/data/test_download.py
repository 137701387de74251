"""The download against a real HTTP server on loopback, which breaks off."""

import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from training.data import download


def archive() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        info = tarfile.TarInfo("happy/a_nohash_0.wav")
        info.size = 100_000
        tar.addfile(info, io.BytesIO(bytes(i * i % 251 for i in range(100_000))))
    return content.getvalue()


CONTENT = archive()


class Breaking(BaseHTTPRequestHandler):
    """Gives the first half, then closes the connection; the rest only to who asks for it."""

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:] if start else CONTENT[: len(CONTENT) // 2])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Breaking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/words.tar.gz"
    server.shutdown()
    server.server_close()


def test_goes_on_where_it_was_cut_off(url, tmp_path):
    wanted = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(download.DownloadError, match="connection lost; run the same command again"):
        download.fetch(url, wanted, tmp_path)
    download.fetch(url, wanted, tmp_path)
    assert (tmp_path / "happy" / "a_nohash_0.wav").stat().st_size == 100_000
    assert not (tmp_path / "words.tar.gz").exists()


def test_wrong_content_is_refused_and_removed(url, tmp_path):
    (tmp_path / "words.tar.gz").write_bytes(b"x" * (len(CONTENT) // 2))
    with pytest.raises(download.DownloadError, match="SHA-256"):
        download.fetch(url, hashlib.sha256(CONTENT).hexdigest(), tmp_path)
    assert not list(tmp_path.iterdir())
