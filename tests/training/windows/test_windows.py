from dataclasses import replace

import numpy as np
import pytest
import torch
from small import RECIPE

from training import recipe
from training.data import recordings as data
from training.model.features import LogMel
from training.recipe import Composition
from training.windows import augment, cache, compose, sources, splice
from training.windows.cache import Windows
from training.windows.targets import IGNORED, NEGATIVE, POSITIVE, ignore_echoes, label

pytestmark = pytest.mark.usefixtures("few_hums")

PLAIN = recipe.parse(RECIPE).windows


@pytest.fixture
def recordings(corpus):
    return sources.read(sources.find(corpus, recipe.parse(RECIPE)), rooms=2)


def composed(recordings, how: Composition, n: int = 40_000, windows: int = 30) -> list[compose.Window]:
    return [compose.compose(recordings, how, n, np.random.default_rng(seed)) for seed in range(windows)]


def test_madeare_the_same_whoever_makes_them(corpus, tmp_path):
    wanted = recipe.parse(RECIPE)
    alone = Windows(corpus, wanted, 0, tmp_path / "a")
    together = Windows(corpus, wanted, 2, tmp_path / "b")
    np.testing.assert_array_equal(alone.words, together.words)
    assert torch.equal(alone.frames, together.frames) and torch.equal(alone.targets, together.targets)
    assert torch.isfinite(alone.frames).all() and (alone.frames >= 0).all()
    assert {-1, 0} == set(alone.words[:, 1])  # some with the keyword, some without


def test_what_is_kept_is_not_made_again(corpus, tmp_path, monkeypatch):
    Windows(corpus, recipe.parse(RECIPE), 0, tmp_path)
    monkeypatch.setattr(cache, "read", lambda *_: pytest.fail("recordings were read again"))
    Windows(corpus, recipe.parse(RECIPE), 0, tmp_path)


def test_a_disk_too_small_is_one_line(corpus, tmp_path):
    with pytest.raises(data.DataError, match="GB are free; make room, or set train.pool lower"):
        Windows(corpus, recipe.parse(RECIPE.replace("pool = 48", "pool = 1_000_000_000_000")), 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_keyword_is_where_the_targets_say(recordings):
    """Composed without noise, the tone of the keyword sounds between start and end and nowhere else."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        word, start, end = compose.cut_out(data.to_float(recordings.keywords[0][0]), PLAIN, rng, 40_000)
        levels = data.frame_levels(word)
        loud = np.flatnonzero(levels > levels.max() / 10)
        assert start - 640 <= loud[0] * 320 and (loud[-1] + 1) * 320 <= end + 640


def test_levels_and_speeds_are_the_recipes(recordings, monkeypatch):
    """Speech at one level is as loud as that; at speed 1 a keyword is as long as it was."""
    monkeypatch.setattr(compose, "background", lambda *given: np.zeros(given[2], np.float32))
    loud = {}
    for level in (-26.0, -46.0):
        how = replace(PLAIN, levels=(level, level), speeds=(1.0, 1.0), splices=0.0)
        made = composed(recordings, how, windows=12)
        loud[level] = np.array([np.abs(window.audio).max() for window in made])
        lengths = {window.end - window.start for window in made if window.keyword is not None}
        assert lengths == {8320}  # half a second, in whole frames
    spoken = loud[-26.0] > 0
    assert spoken.any() and np.allclose(loud[-26.0][spoken], 10 * loud[-46.0][spoken], rtol=0.05)


def powers(audio: np.ndarray) -> dict[str, float]:
    """Of two words of the corpus, which are tones: the highest in 20 ms, whoever says it."""
    spans = np.square(np.abs(np.fft.rfft(audio[: len(audio) // 320 * 320].reshape(-1, 320))))  # bins of 50 Hz
    return {"happy": spans[:, 9:12].sum(1).max(), "bed": spans[:, 28:35].sum(1).max()}


def test_near_misses_are_half_a_keyword_and_half_something_else(recordings):
    recordings = replace(recordings, words=recordings.words[:6])  # "bed"
    for seed in range(20):
        piece = compose.near_miss(recordings, np.random.default_rng(seed))
        power = powers(piece)
        assert 0.1 < power["happy"] / power["bed"] < 10  # both, at about the same level
        assert 0.2 * 16_000 < len(piece) < 0.95 * 16_000


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_as_many_keywords_are_spliced_as_the_recipe_says(recordings, monkeypatch, share):
    called = []
    whole = splice.two_in_one
    monkeypatch.setattr(splice, "two_in_one", lambda *given: called.append(1) or whole(*given))
    monkeypatch.setattr(compose, "near_miss", lambda *_: called.append(0) or np.zeros(800, np.float32))
    made = composed(recordings, replace(PLAIN, splices=share), 20_000, 20)
    assert sum(called) == sum(window.keyword is not None for window in made) * share
    assert (0 in called) == (share > 0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_as_many_keywords_are_synthesised_as_the_recipe_says(recordings, share):
    """Their clips are a tone of another frequency here."""
    tone = (9000 * np.sin(2 * np.pi * 3000 * np.arange(8000) / 16_000)).astype(np.int16)
    recordings = replace(recordings, voices=[[tone]], rooms=[])
    how = replace(PLAIN, voiced=share, sped=0.0, keywords=1.0)
    for _ in range(10):
        clip = compose.keyword_clip(recordings, how, 0, np.random.default_rng())
        assert (np.abs(np.fft.rfft(clip)).argmax() * 16_000 / len(clip) > 2900) == bool(share)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_as_many_keywords_come_after_a_pause_as_the_recipe_says(recordings, monkeypatch, share):
    how = replace(PLAIN, pauses=share, levels=(-26.0, -26.0), in_rooms=0.0)
    monkeypatch.setattr(compose, "background", lambda *given: np.zeros(given[2], np.float32))
    monkeypatch.setattr(compose, "filler", lambda *given: np.full(given[2], 0.5, np.float32))
    said = [one for one in composed(recordings, how) if one.keyword is not None and one.start > 8000]
    silent = [bool((np.abs(one.audio[one.start - 5760 : one.start - 4960]) < 1e-3).all()) for one in said]
    assert len(silent) > 5 and (not any(silent) if share == 0 else sum(silent) > len(silent) / 2)


def test_a_pause_is_faded_into():
    audio = np.ones(1000, np.float32)
    compose.silence_end(audio, 300)
    assert (audio[:620] == 1).all() and (np.diff(audio[620:700]) < 0).all() and (audio[700:] == 0).all()
    short = np.ones(200, np.float32)
    compose.silence_end(short, 300)
    assert (short == 0).all()


def test_mislabelled_clips_are_left_out_unless_wanted(corpus, monkeypatch):
    plain = recipe.parse(RECIPE)
    clips = sources.find(corpus, plain).keywords[0]
    wrong = sources.mislabelled.name_of(clips[0].path, corpus)
    monkeypatch.setattr(sources.mislabelled, "known", lambda: {wrong})
    assert sources.find(corpus, plain).keywords[0] == clips[1:]
    wanted = replace(plain, data=replace(plain.data, mislabelled=True))
    assert sources.find(corpus, wanted).keywords[0] == clips


def test_labels_around_a_word():
    targets = np.zeros(40, np.int64)
    label(targets, 12_800, 20_480, 1280, 10)  # hops end every 1280 samples; the word ends with hop 15
    first, last = np.flatnonzero(targets == POSITIVE)[[0, -1]]
    assert (first + 1) * 1280 >= 12_800 + 0.6 * 7680 and (last + 1) * 1280 <= 20_480 + 0.3 * 16_000
    assert (targets[:11] == NEGATIVE).all() and targets[last + 1] == IGNORED and targets[15 + 10] == NEGATIVE


def test_a_keyword_that_is_still_remembered_is_no_mistake_of_the_window_after_it(corpus, tmp_path):
    made = Windows(corpus, recipe.parse(RECIPE), 0, tmp_path)
    hop, n = made.size.hop_samples, made.hops
    for echoes, (_, keyword, _, end) in zip(made.echoes, made.words, strict=True):
        hops = np.arange(n, n + made.size.window) + 1
        assert echoes.tolist() == [int((hops * hop < end + made.size.window * hop).sum()) if keyword == 0 else 0]
    assert made.echoes.max() > 3
    targets = torch.full((2, 1, 6), NEGATIVE)
    targets[:, 0, 1] = POSITIVE
    found = ignore_echoes(targets, torch.tensor([[0], [3]]))[:, 0].tolist()
    rest = [NEGATIVE] * 3
    assert found == [[NEGATIVE, POSITIVE, NEGATIVE, *rest], [IGNORED, POSITIVE, IGNORED, *rest]]


def test_each_pass_sees_every_window_once():
    train = recipe.parse(RECIPE).train  # 3 epochs of 32 are two passes through 48
    train = replace(train, windows=32, pool=48)
    seen = [index for epoch in range(3) for index in cache.order(train, epoch)]
    assert sorted(seen[:48]) == sorted(seen[48:]) == list(range(48)) and seen[:48] != seen[48:]


def test_a_batch_is_what_its_generator_says(corpus, tmp_path):
    made = Windows(corpus, recipe.parse(RECIPE), 0, tmp_path)
    chosen = np.array([3, 40, 3])
    one, again, other = (made.batch(chosen, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other) and not torch.equal(one[0], one[2])
    assert one.shape == (3, 160, 40) and torch.isfinite(one).all() and (one >= 0).all()
    assert torch.equal(made.batch(chosen, np.random.default_rng(1))[1], made.targets[chosen])


def test_validation_and_test_clips_are_not_trained_on(corpus):
    clips = sources.find(corpus, recipe.parse(RECIPE))
    used = [*clips.keywords[0], *clips.words, *clips.speech, *clips.noise]
    assert {c.split for c in used} == {"training"} and len(clips.keywords[0]) == 6 and len(clips.words) == 12
    assert not any("continuous" in c.path.as_posix() for c in used)


def test_unknown_keyword_is_one_line(corpus):
    with pytest.raises(data.DataError, match="no training clips of 'sheila'"):
        sources.find(corpus, recipe.parse(RECIPE, ["sheila"]))


def test_rooms_keep_time_and_level():
    speech = np.zeros(16_000, np.float32)
    speech[4000:8000] = np.random.default_rng(0).normal(0, 0.1, 4000)
    for response in augment.room_responses(4, seed=1):
        wet = augment.in_room(speech, response)
        assert len(wet) == len(speech) and np.isfinite(wet).all()
        levels = data.frame_levels(wet)
        assert (levels[:12] < levels.max() * 1e-3).all() and levels[13] > levels.max() * 1e-2
        assert 0.2 < data.speech_level(wet) / data.speech_level(speech) < 5


def test_speed_changes_length():
    assert len(augment.change_speed(np.zeros(16_000, np.float32), 1.25)) == pytest.approx(12_800, abs=2)


def test_a_warp_moves_a_tone_by_its_factor():
    tone = np.sin(2 * np.pi * 1500 * np.arange(16_000) / 16_000).astype(np.float32)
    shifted = np.sin(2 * np.pi * 1650 * np.arange(16_000) / 16_000).astype(np.float32)
    frames = LogMel()(torch.from_numpy(np.stack([tone, shifted])), torch.zeros(2, 240))[0][:, 50]
    warped = frames[:1] @ augment.warps([1.1])[0]
    assert warped.argmax() == frames[1].argmax() != frames[0].argmax()


def test_muted_windows_are_digital_silence_until_shortly_before_the_keyword(recordings):
    for audio, keyword, start, end in composed(recordings, replace(PLAIN, muted=1.0)):
        before = max(0, start - 6400) if keyword is not None else 0
        assert not audio[:before].any()
        if keyword is not None:
            assert audio[start:end].any()
    assert any(window.audio[:4000].any() for window in composed(recordings, PLAIN))  # as it is otherwise


def test_bursts_stand_where_nothing_is_said(recordings):
    recordings = replace(recordings, loud=[np.full(8000, 12_345, np.int16)])
    how = replace(PLAIN, bursts=1.0)
    tracks = [compose.filler(recordings, how, 40_000, np.random.default_rng(seed)) for seed in range(10)]
    flat = [(np.abs(np.diff(track[np.abs(track) > 0.1])) < 1e-6).mean() for track in tracks]
    assert np.mean(flat) > 0.5
    assert compose.burst(recordings, np.random.default_rng(0)).dtype == np.float32


def test_worn_speech_is_still_that_speech():
    rng = np.random.default_rng(0)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    changed = [augment.worn(tone, rng) for _ in range(20)]
    for audio in changed:
        assert audio.shape == tone.shape and np.isfinite(audio).all() and np.abs(audio).max() < 0.5
        assert np.corrcoef(audio, tone)[0, 1] > 0.85
    assert len({round(float(np.abs(audio).max()), 2) for audio in changed}) > 3
