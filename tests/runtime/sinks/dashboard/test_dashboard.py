"""The dashboard: what it lets in, what it keeps out, and what a real browser shows of it."""

import contextlib
import json
import signal
import socket
import subprocess
import time
import wave
from pathlib import Path

import browser
import numpy as np
import pytest
from fuzz import fuzz, in_batches
from hypothesis import strategies as st
from page import HOP, SILENCE, TOKEN, Page, token_file
from toy import CURVE

from runtime.errors import OptionsError
from runtime.sinks.dashboard.page import parse_address
from runtime.sinks.dashboard.picture import log_mel, mel_weights

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"


@pytest.fixture
def page(listen, bundle):
    made = Page(listen, bundle)
    yield made
    made.close()


@pytest.fixture
def guarded(listen, bundle, tmp_path):
    made = Page(listen, bundle, "--dashboard-token-file", token_file(tmp_path / "token", TOKEN + "\n"))
    yield made
    made.close()


def test_the_picture_is_torchaudios():
    torch = pytest.importorskip("torch")
    from torchaudio.transforms import MelSpectrogram

    noise = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    mel = MelSpectrogram(16000, n_fft=400, hop_length=160, n_mels=40, center=False)(torch.from_numpy(noise))
    assert np.abs(log_mel(noise, mel_weights()) - np.log(np.maximum(mel.numpy().T, 1e-9))).max() < 1e-3


def test_the_page_is_one_document_without_other_resources(page):
    status, headers, body = page.ask(path="/")
    assert status == 200 and headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert b"http://" not in body and b"https://" not in body and b"@NONCE@" not in body


def test_the_state_tells_what_is_heard(listen, bundle):
    page = Page(listen, bundle, hop=lambda number: HOP if number % 40 > 30 else SILENCE)
    page.lines.until(20, keyword="loud")
    heard = page.hops()
    while page.hops() <= heard:  # the detection is told before the page knows of its hop
        time.sleep(0.02)
    state = json.loads(page.ask()[2])
    assert state["keywords"] == [{"keyword": "loud", "bundle": "", "threshold": 0.5}]
    assert state["detections"][0]["keyword"] == "loud" and state["counters"]["detections"] == 1
    newest = state["hops"][-1]
    assert len(newest["mel"]) == 2 * 8 * 40 and len(newest["peaks"]) == 8
    assert max(hop["level"] for hop in state["hops"]) > -20  # the newest may be the silence after it
    assert 10 < state["memory_mb"] < 500 and state["cpu_s"] > 0
    after = json.loads(page.ask(path=f"/state?after={state['last']}")[2])
    assert len(after["hops"]) < 10
    page.close()


def test_a_threshold_is_tried_and_saved(listen, bundle, tmp_path):
    config = tmp_path / "earshot.toml"
    config.write_text('# mine\nbundle = "bundle"\n')
    page = Page(listen, "--config", config)

    def post(**wish) -> int:
        return page.ask("POST", "/threshold", json.dumps(wish), Content_Type="application/json",
                        Origin=f"http://127.0.0.1:{page.port}")[0]

    assert post(keyword="loud", threshold=0.25) == 200
    assert json.loads(page.ask()[2])["keywords"][0]["threshold"] == 0.25
    assert config.read_text() == '# mine\nbundle = "bundle"\n'
    assert post(keyword="loud", threshold=0.75, save=True) == 200
    assert config.read_text() == 'threshold = {"loud" = 0.75}\n# mine\nbundle = "bundle"\n'
    assert post(keyword="quiet", threshold=0.5) == 409
    config.write_text("nonsense = 1")
    assert post(keyword="loud", threshold=0.5, save=True) == 409
    assert json.loads(page.ask()[2])["keywords"][0]["threshold"] == 0.75
    page.close()


def test_false_accepts_are_tried_and_saved(listen, make_bundle, tmp_path):
    make_bundle(operating_points=[CURVE])
    config = tmp_path / "earshot.toml"
    config.write_text('threshold = {"loud" = 0.6}\nbundle = "bundle"\n')
    page = Page(listen, "--config", config)

    def post(**wish) -> int:
        body = json.dumps({name.replace("_", "-"): value for name, value in wish.items()})
        return page.ask("POST", "/threshold", body, **JSON)[0]

    (shown,) = json.loads(page.ask()[2])["keywords"]
    assert shown["threshold"] == 0.6 and shown["points"][0] == {"threshold": 0.25, "false_accepts": 4.0, "misses": 0.01}
    assert post(keyword="loud", false_accepts=1) == 200
    assert json.loads(page.ask()[2])["keywords"][0]["threshold"] == 0.5
    assert post(keyword="loud", false_accepts=0.5, save=True) == 200
    assert config.read_text() == 'false-accepts = {"loud" = 0.5}\nbundle = "bundle"\n'
    assert post(keyword="loud", false_accepts=0.01, save=True) == 409
    assert post(keyword="loud", false_accepts=-1) == 400
    assert post(keyword="loud", false_accepts=1, threshold=0.5) == 400
    assert json.loads(page.ask()[2])["keywords"][0]["threshold"] == 0.75
    page.close()


def test_without_a_configuration_nothing_can_be_saved(page):
    status, _, body = page.ask("POST", "/threshold", '{"keyword": "loud", "threshold": 0.5, "save": true}',
                               Content_Type="application/json")
    assert status == 409 and b"--config" in body


JSON = {"Content_Type": "application/json"}


@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), [
    ("GET", "/nothing", None, {}, 404), ("GET", "/../../etc/passwd", None, {}, 404),
    ("GET", "//x/state", None, {}, None),
    ("GET", "/state?after=x", None, {}, 400), ("GET", "/state?after=-1", None, {}, 400),
    ("GET", "/state?after=" + "9" * 40, None, {}, 400), ("GET", "/state?" + "a=1&" * 50, None, {}, 400),
    ("GET", "/" + "a" * 70_000, None, {}, 414), ("GET", "/", None, {"X": "a" * 70_000}, 431),
    ("GET", "/", None, {f"X{i}": "a" for i in range(200)}, 431),
    ("PUT", "/", None, {}, 501), ("DELETE", "/threshold", None, {}, 501),
    ("GET", "/state", None, {"Host": "evil.example"}, 421), ("GET", "/state", None, {"Host": "localhost:1"}, 421),
    ("GET", "/state", None, {"Host": ""}, 421), ("GET", "/", None, {"Host": "127.0.0.1.evil.example"}, 421),
    ("GET", "/state", None, {"Origin": "http://evil.example"}, 403), ("GET", "/state", None, {"Origin": "null"}, 403),
    ("POST", "/threshold", "{}", {}, 415), ("POST", "/threshold", "{}", JSON, 400),
    ("POST", "/threshold", "{}", {**JSON, "Origin": "http://evil.example"}, 403),
    ("POST", "/threshold", "x" * 2000, JSON, 413), ("POST", "/threshold", None, {**JSON, "Content_Length": "-1"}, 411),
    ("POST", "/threshold", None, {**JSON, "Content_Length": "9" * 5000}, 413),
    ("POST", "/threshold", "[" * 1000, JSON, 400), ("POST", "/threshold", "[]", JSON, 400),
    ("POST", "/threshold", '{"keyword": 1, "threshold": 0.5}', JSON, 400),
    ("POST", "/threshold", '{"keyword": "loud", "threshold": NaN}', JSON, 400),
    ("POST", "/threshold", '{"keyword": "loud", "threshold": true}', JSON, 400),
    ("POST", "/threshold", '{"keyword": "loud", "threshold": 0}', JSON, 400), ("POST", "/", "{}", JSON, 404),
])
def test_what_is_refused(page, method, path, body, headers, status):
    answer, _, _ = page.ask(method, path, body, **headers)
    assert answer == status if status else 200 <= answer < 500
    assert page.ask()[0] == 200


def test_the_token_is_needed(guarded):
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN}, {"Cookie": f"earshot={TOKEN}"},
                    {"Authorization": "Bearer " + "ÿ" * 20}):
        assert guarded.ask(**headers)[0] == 401
    assert guarded.ask(path="/")[0] == 401 and guarded.ask(path="/?token=x")[0] == 401
    assert guarded.ask("POST", "/threshold", "{}", **JSON)[0] == 401
    assert guarded.ask(Authorization=f"Bearer {TOKEN}")[0] == 200
    status, headers, _ = guarded.ask(path=f"/?token={TOKEN}")
    assert status == 303 and headers["Location"] == "/" and TOKEN not in headers["Set-Cookie"]
    assert "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"]
    assert guarded.ask(Cookie=headers["Set-Cookie"].split(";")[0])[0] == 200


@pytest.mark.parametrize(("arguments", "problem"), [
    (["--dashboard", "0.0.0.0:0"], "others can reach 0.0.0.0, so it needs a token"),
    (["--dashboard", "[::]:0"], "needs a token"), (["--dashboard", ":0"], None), (["--dashboard", "x"], "[HOST:]PORT"),
    (["--dashboard", "70000"], "[HOST:]PORT"), (["--dashboard", "203.0.113.1:0", "--dashboard-token-file", "token"],
                                               "cannot be served"),
    (["--dashboard", "ä..b:0", "--dashboard-token-file", "token"], "cannot be served"),
    (["--dashboard", "0.0.0.0:0", "--dashboard-token-file", "short"], "can be guessed"),
    (["--dashboard", "0.0.0.0:0", "--dashboard-token-file", "none/token"], "cannot be made (No such file"),
    (["--dashboard", "0.0.0.0:0", "--dashboard-token-file", "."], "cannot be read (not a plain file)"),
])
def test_an_open_address_without_a_token_is_refused(listen, bundle, tmp_path, arguments, problem):
    token_file(tmp_path / "token")
    token_file(tmp_path / "short", "1234")
    process = listen(bundle, "--stdin", *arguments, stdin=subprocess.PIPE)
    out, err = process.communicate(SILENCE, timeout=60)
    if problem is None:
        assert process.returncode == 0
        return
    assert process.returncode == 2 and err.startswith(b"listen: error: ") and problem.encode() in err
    assert err.count(b"\n") == 1


def test_an_address():
    assert parse_address("8765") == ("127.0.0.1", 8765) and parse_address("[::1]:80") == ("::1", 80)
    with pytest.raises(OptionsError):
        parse_address("²")


def test_slow_clients_are_cut_off_and_hold_up_nobody(page):
    before, start = page.hops(), time.monotonic()
    slow = []
    for number in range(30):
        client = socket.create_connection(("127.0.0.1", page.port))
        client.settimeout(15)
        try:
            client.sendall(b"GET /state HTTP/1.1\r\nX: " if number % 2 else b"")
        except OSError:
            continue
        slow.append(client)
    time.sleep(1)
    for client in slow[:10]:  # a byte now and then
        with contextlib.suppress(OSError):
            client.sendall(b"a")
    for client in slow:
        try:
            while client.recv(4096):
                pass
        except OSError:
            pass
        client.close()
    assert time.monotonic() - start < 12
    passed = time.monotonic() - start
    assert page.hops() - before == pytest.approx(passed / 0.08, abs=25)  # the audio went on


REQUESTS = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda method, path, version, headers, body: b" ".join((method, path, version)) + b"\r\n" + b"".join(
        name + b": " + value + b"\r\n" for name, value in headers) + b"\r\n" + body,
        st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS"]) | st.binary(max_size=8),
        st.sampled_from([b"/", b"/state", b"/threshold", b"/?token=", b"http://[", b"//[x", b"/state?after="])
        | st.binary(max_size=40),
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b""]) | st.binary(max_size=12),
        st.lists(st.tuples(
            st.sampled_from([b"Host", b"Origin", b"Cookie", b"Authorization", b"Content-Length", b"Content-Type",
                             b"Expect", b"Transfer-Encoding"]) | st.binary(max_size=10),
            st.sampled_from([b"127.0.0.1", b"localhost", b"[::1", b"http://127.0.0.1", b"10", b"-1", b"1e9",
                             b"application/json", b"100-continue", b"chunked"]) | st.binary(max_size=30)), max_size=6),
        st.sampled_from([b'{"keyword": "loud", "threshold": 0.5}', b"{}", b"[", b""]) | st.binary(max_size=60)))


@in_batches
def test_nonsense_gets_a_clean_answer_or_none(page, batch, inputs):
    before = page.hops()

    def answered(request: bytes) -> None:
        assert page.lines.process.poll() is None, f"the listener ended: {page.lines.process.returncode}"
        with socket.create_connection(("127.0.0.1", page.port), timeout=10) as client:
            try:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                answer = b""
                while data := client.recv(65536):
                    answer += data
            except ConnectionError:  # refused before all of it was read
                return
        if answer:
            assert answer.startswith(b"HTTP/1."), answer[:100]
            status = int(answer.split(b" ", 2)[1])
            assert status in (200, 303, 100) or 400 <= status < 500 or status in (501, 505), answer[:100]
            assert b"Traceback" not in answer

    fuzz(answered, REQUESTS, batch, inputs, damaged=4)
    assert page.hops() > before and page.ask()[0] == 200


# A real browser


@pytest.fixture
def chromium(tmp_path):
    if browser.MISSING:
        pytest.skip(f"a browser needs {', '.join(browser.MISSING)}")
    window = browser.Browser(tmp_path / "profile")
    yield window
    window.close()


def recording(bundle: Path) -> list[bytes]:
    """The hops of a WAV file's worth of speech, and three times what the model takes for its keyword."""
    keyword = bundle / "keywords.wav"
    others = [FIXTURES / f"{name}.wav" for name in ("other_flite_sentence", "other_espeak_seven", "happy_flite_slt")]
    clips = [clip for other in others for clip in (other, keyword)]
    rng = np.random.default_rng(0)
    track = []
    for clip in clips:
        with wave.open(str(clip)) as file:
            track += [np.frombuffer(file.readframes(file.getnframes()), "<i2"), rng.normal(0, 30, 12800).astype("<i2")]
    joined = np.concatenate(track)
    return [hop.tobytes() for hop in joined[: len(joined) // 1280 * 1280].reshape(-1, 1280)]


def test_a_knob_turns_through_false_accepts(listen, make_bundle, tmp_path, chromium):
    make_bundle(operating_points=[CURVE])
    (tmp_path / "earshot.toml").write_text('bundle = "bundle"\n')
    page = Page(listen, "--config", tmp_path / "earshot.toml")
    chromium.open(f"http://127.0.0.1:{page.port}/")
    note, value = (f"return document.querySelector('#knobs .{name}')?.textContent" for name in ("note", "value"))
    chromium.wait_for(f"{note} == '1 false accept an hour, 2.0 % missed'")
    assert chromium.run(value) == "threshold 0.500"
    chromium.run("const r = document.querySelector('input[type=range]'); r.value = 0;"
                 "r.dispatchEvent(new Event('input')); r.dispatchEvent(new Event('change'))")
    chromium.wait_for("return document.getElementById('said').textContent.startsWith('in use')")
    assert chromium.run(note) == "1 false accept in 8 hours, 20.0 % missed"
    assert chromium.run(value) == "threshold 0.999"
    chromium.run("document.querySelector('button').click()")
    chromium.wait_for("return document.getElementById('said').textContent == 'saved'")
    assert (tmp_path / "earshot.toml").read_text() == 'false-accepts = {"loud" = 0.125}\nbundle = "bundle"\n'
    assert not [line for line in chromium.complaints() if line["level"] != "INFO"]
    page.close()


def test_a_browser_shows_what_is_heard(listen, shipped, tmp_path, chromium):
    token_file(tmp_path / "token")
    (tmp_path / "earshot.toml").write_text(f'bundle = "{shipped}"\ndashboard-token-file = "token"\n')
    hops = recording(shipped)
    page = Page(listen, "--config", tmp_path / "earshot.toml", hop=lambda number: hops[number % len(hops)])
    url = f"http://127.0.0.1:{page.port}/"
    chromium.open(url)
    assert "a token is needed" in chromium.run("return document.body.textContent")
    chromium.complaints()
    chromium.open(f"{url}?token={TOKEN}")
    assert chromium.run("return location.href") == url
    chromium.wait_for("return document.querySelectorAll('#detections tr').length > 1", 60)
    assert chromium.run("return document.querySelector('#detections td').textContent") == "happy"
    assert chromium.run("return document.getElementById('state').textContent") == "listening for happy"
    chromium.wait_for("return [...document.querySelectorAll('canvas')].every(c => new Set(c.getContext('2d')"
                      ".getImageData(0, 0, c.width, c.height).data).size > 20)")
    chromium.screenshot(tmp_path / "dashboard.png")  # docs/dashboard.png is one of these
    # Drag the threshold, and save it.
    chromium.run("const r = document.querySelector('input[type=range]'); r.value = 0.8;"
                 "r.dispatchEvent(new Event('input')); r.dispatchEvent(new Event('change'))")
    chromium.wait_for("return document.getElementById('said').textContent.startsWith('in use')")
    assert json.loads(page.ask(Authorization=f"Bearer {TOKEN}")[2])["keywords"][0]["threshold"] == 0.8
    chromium.run("document.querySelector('button').click()")
    chromium.wait_for("return document.getElementById('said').textContent == 'saved'")
    assert "0.8" in (tmp_path / "earshot.toml").read_text()
    assert not [line for line in chromium.complaints() if line["level"] != "INFO"]
    page.lines.process.send_signal(signal.SIGSTOP)
    chromium.wait_for("return !document.getElementById('dot').classList.contains('live')", 15)
    page.lines.process.send_signal(signal.SIGCONT)
    chromium.wait_for("return document.getElementById('dot').classList.contains('live')")
    page.close()
