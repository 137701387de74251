"""int8 against float: figures of known scores, and an hour in short."""

import numpy as np
import pytest

from edge_demo.evaluate import compare
from export.audio import synthesise
from runtime.bundle.engine import Engine
from training import metrics
from training.data import streams


def test_more_misses_and_its_interval():
    labels = np.array([1] * 100 + [0] * 400)
    rng = np.random.default_rng(0)
    first = np.concatenate([rng.uniform(0.5, 1, 100), rng.uniform(0, 0.4, 400)])
    assert metrics.more_misses(first, first, labels) == 0
    assert metrics.paired_bootstrap(first, first, labels) == (0, 0)  # paired: clips that both miss tell nothing
    worse = first.copy()
    worse[:10] = 0
    assert metrics.more_misses(worse, first, labels, (0.45, 0.45)) == pytest.approx(0.1)
    low, high = metrics.paired_bootstrap(worse, first, labels, (0.45, 0.45))
    assert 0.03 < low < 0.1 < high < 0.18
    runs = np.stack([first, worse])  # two trainings that differ, each in two forms that do not
    assert metrics.paired_bootstrap(runs, runs, labels, (0.45, 0.45), same_runs=True) == (0, 0)
    low, high = metrics.paired_bootstrap(runs, runs, labels, (0.45, 0.45))
    assert low < -0.05 and high > 0.05
    row = compare.misses_row([first, worse], labels, (0.45, 0.45))
    assert row[:2] == ["0.00 %", "10.00 %"] and row[2].startswith("+10.00 points (+")


def test_clips_in_one_stream_find_their_scores():
    clips = [np.full(16_000, level, np.float32) for level in (0.1, 0.9, 0.5)]
    audio, spans = streams.joined(clips, seed=0)
    for clip, (start, end) in zip(clips, spans, strict=True):
        np.testing.assert_array_equal(audio[start:end], clip)
    scores = np.abs(audio[: len(audio) // 1280 * 1280]).reshape(-1, 1280).mean(1)[:, None]
    np.testing.assert_allclose(streams.clip_scores(scores, spans, 1280)[:, 0], [0.1, 0.9, 0.5], rtol=1e-5)


def test_both_ends_of_the_hour_are_the_same():
    rng = np.random.default_rng(0)
    audio = compare.hour(rng.normal(0, 0.1, 100_000), rng.normal(0, 0.1, 50_000), [], 1280)
    ends = (compare.PREROLL + compare.PART) // 1280 * 1280
    assert len(audio) % 1280 == 0 and abs(len(audio) - compare.HOUR) < 1280
    np.testing.assert_array_equal(audio[:ends], audio[-ends:])


def test_states_do_not_drift(bundle, monkeypatch):
    """Four minutes instead of sixty, of synthetic speech; `make compare` streams the hour."""
    monkeypatch.setattr(compare, "PART", 30 * 16_000)
    monkeypatch.setattr(compare, "HOUR", 240 * 16_000)
    engines = Engine(bundle, "model.onnx"), Engine(bundle, "model.int8.onnx")
    speech = synthesise()
    found = compare.drift(engines, compare.hour(speech, speech[::-1] * 0.5, [], 1280), 0)
    assert found.mean[0] > 0 and found.is_small
    assert not compare.Drift((1e-3, 1.2e-3), (1e-2, 1e-2)).is_small


def test_without_recordings_one_line(capsys, monkeypatch):
    monkeypatch.delenv("EARSHOT_DATA", raising=False)
    monkeypatch.setattr("sys.argv", ["compare", "dist/none"])
    assert compare.main() == 2
    assert capsys.readouterr().err.count("\n") == 1
