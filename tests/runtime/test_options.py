"""Flags and the configuration file, and what a reload makes of them."""

import json
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
from lines import Lines, without_over
from toy import CURVE, write_bundle

from runtime import options
from runtime.config_edit import save_operating_points
from runtime.ear import load
from runtime.errors import OptionsError
from runtime.options import parse

LOUD = (0.5 * 32767 * np.sin(np.arange(16000))).astype("<i2").tobytes()
SILENCE = bytes(32000)
EXAMPLE = {
    "bundle": ["a", "/b"], "wav": ["x.wav"], "stdin": True, "device": 3, "list-devices": True, "wait": True,
    "silence": 5, "model": "int8", "threshold": {"happy": 0.5}, "false-accepts": {"happy": 0.5},
    "refractory": 2, "json": True, "meter": True, "exec": "true",
    "exec-timeout": 3, "led": "ACT", "save-on-detect": "clips", "save-seconds": 2.5, "save-megabytes": 1,
    "mqtt": "mqtt://x/y",
    "mqtt-password-file": "secret", "no-mqtt-discovery": True, "dashboard": 8765, "dashboard-token-file": "token",
}


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        (tmp_path / "earshot.toml").write_text(text)
        return str(tmp_path / "earshot.toml")

    return write


def test_every_flag_may_stand_in_the_file(write, tmp_path):
    assert set(EXAMPLE) == set(options.BY_NAME)
    for name, value in EXAMPLE.items():
        toml = "{happy = 0.5}" if isinstance(value, dict) else json.dumps(value)
        read = options.read_config(write(f"{name} = {toml}"))
        if name in ("bundle", "wav"):
            assert read[name][0] == str(tmp_path / value[0])  # beside the file
        elif options.BY_NAME[name].is_path:
            assert read[name] == str(tmp_path / value)
        else:
            assert read[name] == (str(value) if name in ("device", "dashboard") else value)


def test_the_command_line_wins(write):
    config = write('bundle = "x"\nthreshold = 0.9\ndevice = "USB"\nrefractory = 2')
    read = parse(["--config", config])
    assert read.threshold == {"": 0.9} and read.device == "USB" and read.refractory == 2
    read = parse(["y", "--config", config, "--threshold", "happy=0.8", "--threshold", "0.7", "--stdin"])
    assert read.bundle == ["y"] and read.threshold == {"happy": 0.8, "": 0.7} and read.refractory == 2
    assert read.stdin and read.device is None  # another source


@pytest.mark.parametrize(("text", "problem"), [
    ('treshold = 0.5', "unknown key 'treshold': did you mean 'threshold'?"),
    ('save_on_detect = "x"', "did you mean 'save-on-detect'?"), ("qqqq = 1", "the keys are bundle, "),
    ('threshold = "loud"', "threshold must be in 0.001…1"), ("threshold = 2", "must be in 0.001…1"),
    ("threshold = 1e-46", "must be in 0.001…1"), ("silence" + ".a" * 5000 + " = 1", "nested deeper than 8 levels"),
    ("threshold = {happy = true}", "threshold must be"), ("threshold = [[1]]", "threshold must be"),
    ("stdin = 1", "stdin must be true or false"), ("bundle = []", "bundle must be a list of texts"),
    ('silence = "nan"', "silence must be above 0"), ("silence = inf", "silence must be above 0"),
    ('device = ""', "device must be a text"), ('exec = "a\\u0000b"', "exec must be a text"),
    ("stdin = true\ndevice = 1", "stdin and device exclude each other"), ("x = [", "not TOML"), ("x = \ud800", None),
    ("a = " + "[" * 5000, "not TOML"), ("threshold = " + "9" * 5000, None),
])
def test_a_mistake_is_told_in_one_line(write, text, problem, tmp_path):
    if problem is None:
        (tmp_path / "earshot.toml").write_bytes(text.encode(errors="surrogatepass"))
    path = str(tmp_path / "earshot.toml") if problem is None else write(text)
    with pytest.raises(OptionsError) as caught:
        options.read_config(path)
    message = str(caught.value)
    assert message.startswith(path) and "\n" not in message and (problem or "") in message


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(OptionsError, match="cannot be read"):
        parse(["x", "--config", str(tmp_path / "none.toml")])


@pytest.mark.parametrize("text", [
    "", 'device = "x"\n', "threshold = 0.5\n[x]\n", "# threshold = 1\nthreshold = {happy = 0.1, a = 0.2} # mine\n"])
def test_a_threshold_is_saved_and_nothing_else_changes(write, text):
    if "[x]" in text:
        text = text.replace("[x]\n", "")
    path = write(text)
    before = tomllib.loads(text)
    save_operating_points(path, "threshold", {"happy": 0.75, 'wo"rd': 0.5})
    after = tomllib.loads(Path(path).read_text())
    assert options.read_config(path)["threshold"]["happy"] == 0.75
    assert {**after, "threshold": 0} == {**before, "threshold": 0}
    assert ("# threshold = 1" in Path(path).read_text()) == ("# threshold = 1" in text)
    parse(["x", "--config", path])


def test_what_cannot_be_saved_safely_is_not(write):
    for text in ('[threshold]\nhappy = 0.5\n', 'exec = """\nthreshold = 1\n"""\n'):
        path = write(text)
        with pytest.raises(OptionsError, match="write by hand: threshold ="):
            save_operating_points(path, "threshold", {"happy": 0.75})
        assert Path(path).read_text() == text


@pytest.mark.parametrize(("before", "after"), [
    ('x = 1\n', 'false-accepts = {"a" = 0.5}\nx = 1\n'),
    ('threshold = 0.25\nx = 1\n', 'false-accepts = {"a" = 0.5}\nthreshold = {"b" = 0.25}\nx = 1\n'),
    ('threshold = {a = 0.25}\nx = 1\n', 'false-accepts = {"a" = 0.5}\nx = 1\n'),
    ('x = 1\nfalse-accepts = 2\n', 'x = 1\nfalse-accepts = {"" = 2.0, "a" = 0.5}\n'),
])
def test_false_accepts_are_saved_in_the_place_of_a_threshold(write, before, after):
    before, after = (text.replace("x = 1", "wait = true # mine") for text in (before, after))
    path = write(before)
    save_operating_points(path, "false-accepts", {"a": 0.5}, ["a", "b"])
    assert Path(path).read_text() == after
    parse(["x", "--config", path])


def test_a_threshold_or_false_accepts_but_not_both(write):
    config = write("threshold = {happy = 0.9}")
    read = parse(["x", "--config", config, "--false-accepts", "0.1"])
    assert read.threshold == {} and read.false_accepts == {"": 0.1}
    assert parse(["x", "--threshold", "a=0.5", "--false-accepts", "b=0"]).false_accepts == {"b": 0}
    for more in (["--threshold", "0.5", "--false-accepts", "1"], ["--threshold", "a=1", "--false-accepts", "a=1"],
                 ["--threshold", "a=1", "--false-accepts", "1"], ["--threshold", "1", "--false-accepts", "a=1"]):
        with pytest.raises(OptionsError, match="--threshold and --false-accepts exclude each other: keep one"):
            parse(["x", *more])
    for text in ("threshold = 0.5\nfalse-accepts = 1", "threshold = {a = 0.5}\nfalse-accepts = {a = 1}"):
        with pytest.raises(OptionsError, match="threshold and false-accepts exclude each other"):
            parse(["x", "--config", write(text)])
    for wrong in ("-1", "nan", "inf", "many"):
        with pytest.raises(OptionsError, match="--false-accepts must be false accepts an hour, 0 or more"):
            parse(["x", "--false-accepts", wrong])


@pytest.mark.parametrize(("rate", "threshold"), [
    ("100", 0.25), ("4", 0.25), ("3.9", 0.5), ("0.5", 0.75), ("0.2", 0.999), ("loud=0.125", 0.999)])
def test_false_accepts_choose_the_point_with_the_fewest_misses(make_bundle, rate, threshold):
    options = parse([str(make_bundle(operating_points=[CURVE])), "--false-accepts", rate])
    (ear,) = load(options)
    assert ear.detector.thresholds == [pytest.approx(threshold)]


@pytest.mark.parametrize(("fields", "rate", "problem"), [
    ({}, "1", "no measured false accepts an hour for 'loud': use --threshold"),
    ({"operating_points": [[]]}, "1", "no measured false accepts an hour for 'loud': use --threshold"),
    ({"operating_points": [CURVE]}, "0.1", "--false-accepts 0.1: the least measured for 'loud' is 0.125 an hour"),
    ({"operating_points": [CURVE]}, "lod=1", "false-accepts of 'lod': no bundle has that keyword: use loud"),
])
def test_false_accepts_that_cannot_be_promised(listen, make_bundle, fields, rate, problem):
    process = listen(make_bundle(**fields), "--false-accepts", rate, "--stdin", stdin=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and not out and len(err.splitlines()) == 1 and problem in err.decode()


def test_sighup_reads_configuration_and_bundle_again(listen, make_bundle, write):
    bundle = make_bundle()
    config = write('bundle = "bundle"\nstdin = true\nthreshold = 0.4\n')
    lines = Lines(listen("--config", config, stdin=subprocess.PIPE))
    lines.feed(LOUD)
    lines.until(20, keyword="loud")
    # Another bundle in the same place.
    make_bundle(threshold=[0.3], refractory_hops=3)
    write('bundle = "bundle"\nstdin = true\nthreshold = 0.9999\n')
    assert lines.reload()["event"] == "reloaded"
    lines.feed(SILENCE + LOUD + SILENCE)  # below the new threshold
    # Nonsense leaves everything as it is.
    write("treshold = 0.5")
    failed = lines.reload()
    assert failed["event"] == "reload_failed" and "did you mean 'threshold'" in failed["reason"]
    # So does half a bundle.
    write('bundle = "bundle"\nstdin = true\n')
    content = (bundle / "model.int8.onnx").read_bytes()
    (bundle / "model.int8.onnx").write_bytes(content[:-9])
    failed = lines.reload()
    assert failed["event"] == "reload_failed" and "half-written" in failed["reason"]
    (bundle / "model.int8.onnx").write_bytes(content)
    assert lines.reload()["event"] == "reloaded"
    lines.feed(SILENCE + LOUD)
    lines.until(20, keyword="loud")
    summary = lines.end()
    assert summary["events"] == {"reloaded": 2, "reload_failed": 2} and summary["detections"] == 2


def test_several_bundles_hear_the_same_audio(listen, tmp_path, bundle):
    other = write_bundle(tmp_path / "other", keywords=["noisy"], threshold=[0.999])
    process = listen(bundle, other, "--stdin", stdin=subprocess.PIPE)
    out, err = process.communicate(SILENCE + LOUD, timeout=60)
    assert process.returncode == 0 and not err
    found = without_over(out)
    assert [(line["bundle"], line["keyword"]) for line in found] == [("bundle", "loud"), ("other", "noisy")]
    assert found[0]["time_s"] < found[1]["time_s"]
    one = listen(bundle, other, "--stdin", "--threshold", "nothing=0.5", stdin=subprocess.PIPE)
    out, err = one.communicate(SILENCE, timeout=60)
    assert one.returncode == 2 and b"no bundle has that keyword: use loud, noisy" in err
