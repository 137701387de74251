"""The shipped model on real recordings, and the evaluation itself on streams whose answer is known."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_demo import evaluate
from export.threshold import set_thresholds
from runtime.engine import Engine
from training import data

ROOT = Path(__file__).resolve().parents[2]


class Loudness:
    """A stand-in for an engine whose score is known: half the hop's highest sample."""

    hop_samples, refractory_hops, keywords, thresholds, model = 1280, 2, ("tone",), (0.25,), "loudness"

    def reset(self):
        pass

    def step(self, hop):
        return np.array([np.abs(hop).max() / 2], np.float32)


def known() -> evaluate.Recordings:
    loud, quiet = np.full(16_000, 0.8, np.float32), np.full(16_000, 0.1, np.float32)
    talk = np.concatenate([quiet, loud, quiet, quiet, loud, quiet])
    return evaluate.Recordings([loud] * 4, [loud, loud, loud, quiet], [quiet] * 40, talk, [])


def test_clips_that_are_told_apart_cost_nothing():
    figures = evaluate.clip_figures(*evaluate.clip_scores(Loudness(), known(), 0))
    assert figures["one_minus_auroc"] == 0 and figures["frr_at_half_percent_far"] == 0
    assert figures["threshold_missing_5_percent"] == pytest.approx(0.4)


def test_without_noises_what_needs_none_is_measured(monkeypatch):
    monkeypatch.setattr(evaluate, "ROOMS", 1)
    figures, clean = evaluate.miss_figures(Loudness(), known(), 0, 0.25)
    assert [name for name in figures if name.startswith("misses")] == [
        "misses_clean", "misses_10_times_quieter", "misses_4_times_louder",
    ]  # fmt: skip
    assert figures["misses_clean"]["share"] == 0 and clean.hits(0.25).all()


def test_each_loud_second_of_talk_is_one_false_accept():
    heard = evaluate.hear_negatives(Loudness(), evaluate.negative_streams(known(), []), 0)
    figures = evaluate.alarm_figures(heard, {"operating_point": 0.25})
    assert figures["continuous_at_operating_point"]["false_accepts"] == 2
    assert figures["continuous_at_operating_point"]["per_hour"] == pytest.approx(2 / (6 / 3600))
    assert figures["joined_negatives_at_operating_point"]["false_accepts"] == 0


def test_operating_point_is_the_lowest_threshold_that_keeps_the_wanted_rate():
    """Talk of six seconds with two events: at less than one in six seconds only a score above theirs will do."""
    heard = evaluate.hear_negatives(Loudness(), evaluate.negative_streams(known(), []), 0)
    for rate, least, most in ((2 * 600, 0.0499, 0.0501), (2 * 600 - 1, 0.4, 0.401)):
        threshold = evaluate.operating_point(heard, rate)
        assert least < threshold < most
        assert evaluate.alarm_figures(heard, {"it": threshold})["continuous_at_it"]["per_hour"] <= rate
    assert evaluate.validation_misses(Loudness(), known(), 0, 0.25) == 0.25


def test_report_gets_one_section_however_often(tmp_path):
    report = tmp_path / "report.md"
    report.write_text("# toy\n\nbefore\n")
    for value in (1, 2):
        evaluate.put_into_report(report, {"toy:tone": {"false_accepts": value}}, "evaluation.png")
    text = report.read_text()
    assert text.startswith("# toy\n\nbefore\n\n## How") and text.count(evaluate.HEADING) == 1
    assert "| false_accepts | 2 |" in text


def test_threshold_is_written_and_the_bundle_still_loads(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "copy")
    set_thresholds(tmp_path / "copy", [0.625])
    for model in ("model.onnx", "model.int8.onnx"):
        assert Engine(tmp_path / "copy", model).thresholds == (0.625,)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    (tmp_path / "link").symlink_to("copy")
    set_thresholds(tmp_path / "link", [0.75])
    assert Engine(str(tmp_path / "copy")).thresholds == (0.75,)
    assert (tmp_path / "link").is_symlink() and len(list(tmp_path.iterdir())) == 2


def test_tracks_count_what_is_found_and_where():
    assert evaluate.track_figures(Loudness(), known(), 0, 0.25) == {
        "tracks": 100,
        "one_detection_at_keyword": 1.0,
        "none_elsewhere": 1.0,
    }
    assert evaluate.track_figures(Loudness(), known(), 0, 0.01)["none_elsewhere"] < 0.2  # fires at once


def test_too_little_to_measure_with_is_named(tmp_path):
    """A folder of the user's without recordings, and a keyword with hardly another word beside it."""
    with pytest.raises(data.DataError, match="no recordings .* name another with --also"):
        evaluate.negative_streams(known(), [tmp_path])
    clips = [f"happy/{speaker}_nohash_0.wav" for speaker in range(3)]
    for clip in clips:
        path = tmp_path / "speech_commands" / clip
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(16_000), 16_000)
    (tmp_path / "speech_commands" / "testing_list.txt").write_text("\n".join(clips))
    with pytest.raises(data.DataError, match="0 test clips of other words than 'happy' .* 20 needed"):
        evaluate.load(tmp_path, "happy")


def test_table_has_a_line_per_figure():
    text = evaluate.table(evaluate.cells({"a": {"x": {"y": 0.5}, "z": (1.0, 2.0)}, "b": {"x": {"y": 0.25}}}))
    assert [line.split() for line in text.splitlines()] == [["a", "b"], ["x.y", "0.5", "0.25"], ["z", "1", "…", "2"]]
    columns = {name: {"x": value} for name, value in {"a": 0.1, "b": 0.2, "c": 0.6}.items()}
    of_three = evaluate.table(evaluate.cells(columns))
    ours = {name: figures | {"y": 1} for name, figures in columns.items()}
    assert evaluate.cells(ours | {"peer": {"x": 9.0}})[1] == ["x", "0.1", "0.2", "0.6", "9", "0.3", "0.1 … 0.6"]
    assert of_three.splitlines()[1].split() == ["x", "0.1", "0.2", "0.6", "0.3", "0.1", "…", "0.6"]


def test_shipped_model_keeps_its_promises_on_real_recordings(bundle, recordings):
    """The bars of the first release, on recordings that nothing was trained on."""
    engine = Engine(bundle)
    figures, _, _ = evaluate.evaluate(engine, recordings, conditions=["clean"])  # half a minute less than all
    figures |= evaluate.track_figures(engine, evaluate.load(recordings, "happy"), 0, figures["threshold"])
    assert figures["clips"]["keyword"] >= 100 and figures["clips"]["others"] >= 1000
    assert figures["one_minus_auroc"] <= 0.003
    assert figures["frr_at_half_percent_far"] <= 0.03
    assert figures["continuous_at_5_percent_missed"]["false_accepts"] <= 10
    assert figures["one_detection_at_keyword"] >= 0.9 and figures["none_elsewhere"] >= 0.9


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
        evaluate.peer_figures(sys.executable, {"continuous": np.zeros(16_000, np.float32)})
