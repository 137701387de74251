"""Validation: streaming in parts, conditions of the clips, thresholds and curves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from training import recipe
from training.metrics import event_intervals
from training.model.crnn import CRNN, Size, log_odds
from training.validation import figures, held_out

SMALL = """
[data]
keywords = ["happy"]
rooms = 2
packages = []
[windows]
bursts = 0
[model]
channels = 2
hidden = 6
"""


def test_parts_say_what_the_whole_stream_says(monkeypatch):
    monkeypatch.setattr(held_out, "PART", 20)
    torch.manual_seed(0)
    model = CRNN(Size(channels=2, hidden=6, layers=1)).eval()
    frames = 5 * torch.rand(1, 50 * 8, 40)  # two parts and a half, of 8 frames a hop
    silence = torch.zeros(1, held_out.PREROLL * 8, 40)
    whole = figures.stream(model, torch.cat([silence, frames], 1))[0, held_out.PREROLL :]
    parts = figures.stream(model, held_out.in_parts(frames[0], 8))
    assert parts.shape == (3, held_out.PREROLL + 20, 1) and whole.std() > 1e-3
    torch.testing.assert_close(parts[:, held_out.PREROLL :].flatten(0, 1)[:50], whole, atol=1e-5, rtol=0)


def test_what_learns_without_noise_and_rooms_is_validated_with_them(corpus, monkeypatch):
    monkeypatch.setattr(held_out, "ROOMS", 2)
    usual = recipe.parse(SMALL)
    bare = replace(usual, data=replace(usual.data, noise=(), rooms=0))
    model = CRNN(usual.size).eval()
    one, other = (held_out.load(corpus, which, model).changed for which in (usual, bare))
    assert len(one) == len(other) == len(held_out.SNRS) + len(held_out.GAINS)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_keywords_are_heard_quieter_and_louder_too(corpus):
    known = recipe.parse(SMALL)
    loaded = held_out.load(corpus, known, CRNN(known.size).eval())
    clean = loaded.clips[torch.from_numpy(loaded.labels) >= 0]
    quieter, louder = loaded.changed[-2:]
    loud = clean > 15  # far above the floor, so that nothing is cut off there
    assert loud.any() and clean.shape == quieter.shape == louder.shape
    assert (clean[loud] - quieter[loud] - 2 * np.log(10)).abs().max() < 0.01
    assert 1 < (louder[loud] - clean[loud]).mean() < 3  # 2 ln 4 is 2.8; some of it is clipped


def test_clips_are_heard_after_talk_each_after_one_of_several():
    torch.manual_seed(0)
    model = CRNN(Size(channels=2, hidden=6, layers=2, keywords=2, window=4, smoothing=3)).eval()
    before, frames = 20 * torch.rand(2, 10 * 8, 40), 20 * torch.rand(5, 6 * 8, 40)
    odds = figures.stream(model, frames, before)
    for index, clip in enumerate(frames):
        whole = figures.stream(model, torch.cat([before[index % 2], clip]).unsqueeze(0))
        torch.testing.assert_close(odds[index], whole[0, 10:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("hops", [1, 2, 5])
def test_an_average_afterwards_is_what_the_model_itself_averages(hops):
    torch.manual_seed(0)
    model = CRNN(Size(channels=2, hidden=6, layers=1, keywords=2, window=4)).eval()
    frames = 20 * torch.rand(3, 20 * 8, 40)
    afterwards = figures.running_mean(figures.stream(model, frames), hops)
    model.size = replace(model.size, smoothing=hops)
    itself = log_odds(model.classify(frames, model.zero_state(3))[0].logits)
    torch.testing.assert_close(afterwards, itself, atol=1e-5, rtol=1e-4)


def given_odds(odds: dict[str, list[list[float]]], talk: dict[str, list[float]], hours: float = 1.0) -> tuple:
    """Log-odds of hops → arguments of `figures.figures`: two clips of the keyword, others, the two changed, and `hours`
    of talk of each kind."""
    clips = [torch.tensor(odds[name]).unsqueeze(-1) for name in ("clips", "changed")]
    labels = np.array([0, 0] + [-1] * (len(odds["clips"]) - 2))
    streams = {kind: torch.tensor([[-9.0] * held_out.PREROLL + one]).unsqueeze(-1) for kind, one in talk.items()}
    lengths = {kind: held_out.Stream(torch.zeros(0), len(one), hours) for kind, one in talk.items()}
    given = held_out.HeldOut(torch.zeros(0), torch.zeros(0), labels, [], [], lengths, 0.5, False)
    return given, clips, streams


def test_more_hops_are_averaged_where_false_accepts_are_short(monkeypatch):
    """What sounds like the keyword for one hop is higher than the keyword is for four: one hop misses both, four none;
    if the recipe says one, it is one."""
    word, other = [-5.0] * 4 + [2.0] * 4 + [-5.0] * 4, [-5.0] * 12
    clips = {"clips": [word, word, other], "changed": [word, word]}
    given = given_odds(clips, {"read": ([4.0] + [-5.0] * 19) * 40})
    by_hops = {hops: figures.figures(*given, hops, 12) for hops in figures.SMOOTHINGS}
    assert by_hops[1].misses == 1.0 and by_hops[4].misses == 0.0
    model = CRNN(Size(channels=2, hidden=6, layers=1, smoothing=0)).eval()
    answers = {id(given[0].clips): given[1][0], id(given[0].streams["read"].frames): given[2]["read"]}
    monkeypatch.setattr(figures, "stream", lambda _, frames, before=None: answers[id(frames)])
    chosen = figures.validate(model, given[0], 12)
    assert chosen.misses == 0.0 and 1 < chosen.smoothing <= 4 and model.size.smoothing == 0
    model.size = replace(model.size, smoothing=1)
    assert figures.validate(model, given[0], 12).smoothing == 1


def talk(*scores: float) -> list[float]:
    """Hops of a stream with an event at each of these log-odds."""
    return [odds for score in scores for odds in [score] + [-9.0] * 19]


def threshold(per_hour: float, hours: float, **kinds: list[float]) -> float:
    given, _, streams = given_odds({"clips": [], "changed": []}, kinds, hours)
    intervals = {
        kind: event_intervals(odds[0, held_out.PREROLL :, 0].sigmoid().numpy(), 12) for kind, odds in streams.items()
    }
    return figures.threshold_at_rate(given, intervals, per_hour)


def just_above(odds: float) -> float:
    return pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-5)


def test_an_operating_point_holds_over_all_speech_in_each_kind_of_it_and_in_noise():
    many = talk(*[1.0] * 4)
    assert threshold(1.0, 4.0, read=many, acted=talk(2.0)) == 0.0  # 5 of 8 allowed
    assert threshold(0.5, 4.0, read=many, acted=talk(2.0)) == just_above(1.0)  # 4 of 8: the four go
    assert threshold(0.5, 2.0, read=talk(3.0, 3.0, 3.0), acted=talk(-9.0)) == just_above(3.0)  # 2 of a kind
    assert threshold(0.5, 4.0, read=talk(0.0), noise=talk(4.0)) == just_above(4.0)


def test_a_curve_has_what_was_measured_at_each_of_its_points():
    word, other = [-5.0] * 4 + [2.0] * 4 + [-5.0] * 4, [-5.0] * 12
    faint = [-5.0] * 4 + [0.5] * 4 + [-5.0] * 4
    odds = {"clips": [word, faint, other], "changed": [word, faint]}
    given, clips, streams = given_odds(odds, {"read": talk(*[1.0] * 6), "acted": talk(-3.0)}, hours=2.0)
    (curve,) = figures.figures(replace(given, noisy=True), clips, streams, 1, 12).curves
    assert [point.threshold for point in curve] == sorted({point.threshold for point in curve})
    low, high = curve[0], curve[-1]
    assert (low.false_accepts_per_hour, low.worst_kind_per_hour, low.misses) == (1.5, 3.0, 0.0)
    assert (high.false_accepts_per_hour, high.misses, high.misses_10_db) == (0.0, 0.5, 0.5)
