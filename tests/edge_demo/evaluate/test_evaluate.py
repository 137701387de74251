"""The evaluation on streams whose answer is known, and the shipped model on real recordings."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_demo.evaluate import clips, misses, negatives, report
from edge_demo.evaluate.false_accepts import alarm_figures, operating_point, score_stream
from edge_demo.evaluate.negatives import JOINED, InMemory, Stream
from edge_demo.evaluate.peers import peer_figures
from edge_demo.evaluate.recordings import Recordings, load
from export.folder.threshold import set_thresholds
from runtime.bundle.engine import Engine
from training.data import corpora
from training.data import recordings as data

ROOT = Path(__file__).resolve().parents[3]
LOUD, QUIET = np.full(16_000, 0.8, np.float32), np.full(16_000, 0.1, np.float32)


class Loudness:
    """A stand-in for an engine whose score is known: half the hop's highest sample; with `slow`, only once it has heard
    so many hops since its reset."""

    hop_samples, refractory_hops, keywords, thresholds, model = 1280, 2, ("tone",), (0.25,), "loudness"

    def __init__(self, slow: int = 0):
        self.slow, self.heard = slow, 0

    def reset(self):
        self.heard = 0

    def step(self, hop):
        self.heard += 1
        return np.array([np.abs(hop).max() / 2 if self.heard > self.slow else 0], np.float32)


def known() -> Recordings:
    files = [f"quiet {i}" for i in range(40)]
    return Recordings([LOUD] * 4, [LOUD, LOUD, LOUD, QUIET], [QUIET] * 40, files, [])


def kind(name: str, *seconds: np.ndarray) -> Stream:
    """A stream of recordings of one second each."""
    recordings = [InMemory(f"{name}/{i}", name, "testing", "", None, 0, audio) for i, audio in enumerate(seconds)]
    return Stream(name, recordings)


TALK = kind("requests", QUIET, LOUD, QUIET, QUIET, LOUD, QUIET)
READ = kind("read", QUIET, QUIET, LOUD)
NOISE = kind("noise", QUIET, QUIET)


def alarms(*streams: Stream, word: str = "tone"):
    return [score_stream(Loudness(), stream).alarms(0, word) for stream in streams]


def test_clips_that_are_told_apart_cost_nothing():
    scores, labels = clips.clip_scores(Loudness(), known(), 0)
    figures = clips.clip_figures(scores, labels)
    assert figures["one_minus_auroc"] == 0 and figures["frr_at_half_percent_far"] == 0
    assert scores[labels == 1] == pytest.approx(0.4)


def test_without_noises_what_needs_none_is_measured(monkeypatch):
    monkeypatch.setattr(misses, "ROOMS", 1)
    figures, clean = misses.miss_figures(Loudness(), known(), 0, 0.25)
    assert [name for name in figures if name.startswith("misses")] == [
        "misses_clean", "misses_10_times_quieter", "misses_4_times_louder",
    ]  # fmt: skip
    assert figures["misses_clean"]["share"] == 0 and clean.detected(0.25).all()


def test_a_clip_alone_is_heard_as_listen_hears_a_file():
    """From zero state: a detector that is deaf at first misses what stands at the beginning. The quiet room after it is
    heard too, and digital zeros before it, if that is asked for."""
    missed = {
        name: [clips.start_figures(Loudness(slow), known(), 0, 0.25)[f"misses_{name}"]["share"] for slow in (0, 13, 26)]
        for name in ("as_a_file", "after_digital_silence")
    }
    assert missed == {"as_a_file": [0, 1, 1], "after_digital_silence": [0, 0, 1]}
    low, hops = 0.0006, []  # the room's loudest sample is about 0.004
    engine = Loudness(13)
    assert low < clips.as_file(engine, np.zeros(16_000, np.float32), 0) < 0.01
    assert engine.heard == 13 + 7, hops  # a second, and half a second


def test_each_loud_second_is_one_false_accept_of_its_kind():
    figures = alarm_figures(alarms(TALK, READ, NOISE, negatives.joined(known())), 0.25)
    counted = {name.removesuffix("_at_operating_point"): figures[name] for name in figures if name != "keyword_spoken"}
    events = {name: figure["false_accepts"] for name, figure in counted.items()}
    assert events == {"speech": 3, "requests": 2, "read": 1, "noise": 0, JOINED: 0}
    assert counted["requests"]["hours"] == round(6.0 / 3600, 3)
    assert counted["requests"]["per_hour"] == pytest.approx(2 / (75 * 0.08 / 3600))
    low, high = counted["speech"]["per_hour_interval"]
    assert low * (113 * 0.08 / 3600) == pytest.approx(0.6187, abs=1e-3)  # exact, of three events
    assert high * (113 * 0.08 / 3600) == pytest.approx(8.7673, abs=1e-3)
    assert figures["keyword_spoken"] == {"recordings_left_out": 0, "of_these_detected": 0}


def test_where_it_fired_is_listed_the_highest_score_first():
    louder = kind("acted", QUIET, np.concatenate([QUIET, LOUD / 2, LOUD * 1.2])[8_000:])
    events = report.false_accepts(alarms(TALK, louder), 0.15)
    assert [(event["kind"], event["file"]) for event in events] == [
        ("acted", "acted/1"), ("requests", "requests/4"), ("requests", "requests/1"),
    ]  # fmt: skip
    assert events[0]["score"] == pytest.approx(0.48, abs=1e-3)  # what it rose to, not where it crossed
    assert events[0]["seconds"] == pytest.approx(0.56, abs=0.08)
    assert "acted/1" in report.line(events[0])


def test_recordings_in_which_the_keyword_is_said_are_no_false_accepts(monkeypatch):
    """They are left out of the hours too, and what of them was detected is told."""
    monkeypatch.setattr(corpora, "spoken", lambda: {"tone": {"requests/1": "a tone", "requests/2": "tone, quietly"}})
    heard = alarms(TALK)
    figures = alarm_figures(heard, 0.25)
    assert figures["requests_at_operating_point"]["false_accepts"] == 1
    assert heard[0].hours == pytest.approx((6 - 2 - 0.5) / 3600, abs=0.2 / 3600)
    assert figures["keyword_spoken"] == {"recordings_left_out": 2, "of_these_detected": 1}
    assert alarm_figures(alarms(TALK, word="other"), 0.25)["requests_at_operating_point"]["false_accepts"] == 2


def test_operating_point_is_the_lowest_threshold_that_keeps_the_wanted_rate():
    """Talk of six seconds with two events: at less than one in six seconds only a score above theirs will do."""
    for rate, least, most in ((2 * 600, 0.0499, 0.0501), (2 * 600 - 1, 0.399, 0.401)):
        threshold = operating_point(alarms(TALK), rate)
        assert least < threshold < most
        assert alarms(TALK)[0].per_hour(np.array(threshold)) <= rate
    assert clips.validation_misses(Loudness(), known(), 0, 0.25) == 0.25


def test_a_kind_may_be_worse_than_all_but_noise_and_the_user_s_own_may_not():
    """Speech of 9 s with one event, all in one kind, at just enough for one in 9 s."""
    wanted, one = 3600 / 9, kind("read", QUIET, QUIET, LOUD)
    calm = kind("requests", *[QUIET] * 6)
    assert operating_point(alarms(calm, one), wanted) < 0.06
    for other in ("noise", "television"):
        assert operating_point(alarms(calm, one, kind(other, QUIET, LOUD)), wanted) > 0.399
        assert operating_point(alarms(calm, one, kind(other, QUIET, QUIET)), wanted) < 0.06
    with pytest.raises(data.DataError, match="needs recordings for validation"):
        operating_point([], wanted)


def test_one_recording_at_a_time_is_in_memory():
    """A recording is read when its turn has come."""
    read, scored = [], []

    class Counted(InMemory):
        def read(self):
            read.append(len(scored))
            return super().read()

    class Counting(Loudness):
        def step(self, hop):
            scored.append(hop)
            return super().step(hop)

    score_stream(Counting(), Stream("read", [Counted(str(i), "read", "testing", "", None, 0, QUIET) for i in range(4)]))
    assert read == [0, 12, 25, 37]


def test_report_gets_one_section_however_often(tmp_path):
    path = tmp_path / "report.md"
    path.write_text("# toy\n\nbefore\n")
    for value in (1, 2):
        report.put_into_report(path, {"toy:tone": {"false_accepts": value}}, "evaluation.png")
    text = path.read_text()
    assert text.startswith("# toy\n\nbefore\n\n## How") and text.count(report.HEADING) == 1
    assert "| false_accepts | 2 |" in text


def test_threshold_is_written_and_the_bundle_still_loads(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "copy")
    set_thresholds(tmp_path / "copy", [0.625])
    for model in ("model.onnx", "model.int8.onnx", "model.bin", "model.int8.bin"):
        assert Engine(tmp_path / "copy", model).thresholds == (0.625,)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    (tmp_path / "link").symlink_to("copy")
    set_thresholds(tmp_path / "link", [0.75])
    assert Engine(str(tmp_path / "copy")).thresholds == (0.75,)
    assert (tmp_path / "link").is_symlink() and len(list(tmp_path.iterdir())) == 2


def test_tracks_count_what_is_found_and_where():
    assert misses.track_figures(Loudness(), known(), 0, 0.25) == {
        "tracks": 100,
        "one_detection_at_keyword": 1.0,
        "none_elsewhere": 1.0,
    }
    assert misses.track_figures(Loudness(), known(), 0, 0.01)["none_elsewhere"] < 0.2  # fires at once


def test_too_little_to_measure_with_is_named(tmp_path):
    """A folder of the user's without recordings, and a keyword with hardly another word beside it."""
    with pytest.raises(data.DataError, match="no recordings .* name another with --also"):
        negatives.of_folders([tmp_path])
    names = [f"happy/{speaker}_nohash_0.wav" for speaker in range(3)]
    for name in names:
        path = tmp_path / "speech_commands" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(16_000), 16_000)
    (tmp_path / "speech_commands" / "testing_list.txt").write_text("\n".join(names))
    with pytest.raises(data.DataError, match="0 test clips of other words than 'happy' .* 20 needed"):
        load(tmp_path, "happy")


def test_table_has_a_line_per_figure():
    text = report.table(report.cells({"a": {"x": {"y": 0.5}, "z": (1.0, 2.0)}, "b": {"x": {"y": 0.25}}}))
    assert [line.split() for line in text.splitlines()] == [["a", "b"], ["x.y", "0.5", "0.25"], ["z", "1", "…", "2"]]
    columns = {name: {"x": value} for name, value in {"a": 0.1, "b": 0.2, "c": 0.6}.items()}
    of_three = report.table(report.cells(columns))
    ours = {name: figures | {"y": 1} for name, figures in columns.items()}
    assert report.cells(ours | {"peer": {"x": 9.0}})[1] == ["x", "0.1", "0.2", "0.6", "9", "0.3", "0.1 … 0.6"]
    assert of_three.splitlines()[1].split() == ["x", "0.1", "0.2", "0.6", "0.3", "0.1", "…", "0.6"]


@pytest.fixture
def base(corpus, tmp_path, registry, monkeypatch) -> Path:
    """The tiny corpus with enough other words, and packages with nothing in them."""
    shutil.copytree(corpus, tmp_path / "data")
    words = tmp_path / "data" / "speech_commands"
    others = [f"dog/{i:08x}_nohash_0.wav" for i in range(20)]
    (words / "dog").mkdir()
    for name in others:
        shutil.copy(words / "bed" / "00000000_nohash_0.wav", words / name)
    with open(words / "testing_list.txt", "a") as file:
        file.write("\n".join(others) + "\n")
    registry.put_empty(corpora.known_packages())
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    return tmp_path / "data"


@pytest.mark.slow
def test_the_command_chooses_on_validation_and_counts_on_testing(bundle, base, tmp_path):
    """An hour of noise is heard for each, which takes a while."""
    shutil.copytree(bundle, tmp_path / "copy")
    command = [sys.executable, "-m", "edge_demo.evaluate", "copy", "--data", base, "--rate", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (figures,) = json.loads((tmp_path / "copy" / "evaluation.json").read_text()).values()
    assert Engine(tmp_path / "copy").thresholds == (pytest.approx(figures["threshold"]),)
    noise = figures["noise_at_operating_point"]
    assert noise["hours"] == pytest.approx(1, abs=0.001)
    fired = json.loads((tmp_path / "copy" / "false_accepts.json").read_text())["copy:happy"]
    assert len([event for event in fired if event["kind"] == "noise"]) == noise["false_accepts"]
    assert f"{len(fired)} false accepts, the highest scores first" in done.stdout


def test_shipped_model_keeps_its_promises_on_real_recordings(bundle, recordings):
    """The bars of the first release, on recordings that nothing was trained on; without packages."""
    engine = Engine(bundle)
    mine, threshold = load(recordings, "happy"), engine.thresholds[0]
    figures = clips.clip_figures(*clips.clip_scores(engine, mine, 0))
    assert figures["clips"]["keyword"] >= 100 and figures["clips"]["others"] >= 1000
    assert figures["one_minus_auroc"] <= 0.003
    assert figures["frr_at_half_percent_far"] <= 0.03
    requests = Stream("requests", corpora.recordings("requests", "testing", recordings, only=()))
    heard = score_stream(engine, requests).alarms(0, "happy")
    assert heard.hours > 0.3 and heard.count(threshold) <= 5
    tracks = misses.track_figures(engine, mine, 0, threshold)
    assert tracks["one_detection_at_keyword"] >= 0.9 and tracks["none_elsewhere"] >= 0.9


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere", "--data", "/nowhere"], "no such folder of recordings"),
        (["nowhere", "--data", "tests"], "manifest.json"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    command = [sys.executable, "-m", "edge_demo.evaluate", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_peers_that_cannot_run_are_one_line():
    with pytest.raises(data.DataError, match="make .venv-peers/ready"):
        peer_figures(sys.executable, [TALK])


def test_peers_hear_the_same(tmp_path):
    """In the place of their Python, one that says how many seconds it was given."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "{\\"alexa\\": $(($(stat -c %s "$3") / 64000))}"\n')
    python.chmod(0o755)
    figures = peer_figures(str(python), [TALK, NOISE])["microWakeWord:alexa"]
    assert figures["requests_at_operating_point"]["false_accepts"] == 6
    assert figures["noise_at_operating_point"]["hours"] == round(2 / 3600, 3)
