"""Continuous speech in parts says what it says as one stream."""

from dataclasses import replace

import torch

from training import recipe, validation
from training.crnn import CRNN, Size


def test_parts_say_what_the_whole_stream_says(monkeypatch):
    monkeypatch.setattr(validation, "PART", 20)
    torch.manual_seed(0)
    model = CRNN(Size(channels=2, hidden=6, layers=1)).eval()
    frames = 5 * torch.rand(1, 50 * 8, 40)  # two parts and a half, of 8 frames a hop
    silence = torch.zeros(1, validation.PREROLL * 8, 40)
    whole = validation.stream(model, torch.cat([silence, frames], 1))[0, validation.PREROLL :]
    parts = validation.stream(model, validation.in_parts(frames[0], 8))
    assert parts.shape == (3, validation.PREROLL + 20, 1) and whole.std() > 1e-3
    torch.testing.assert_close(parts[:, validation.PREROLL :].flatten(0, 1)[:50], whole, atol=1e-5, rtol=0)


def test_what_learns_without_noise_and_rooms_is_validated_with_them(corpus, monkeypatch):
    monkeypatch.setattr(validation, "ROOMS", 2)
    usual = recipe.parse('[data]\nkeywords = ["happy"]\nrooms = 2\n[model]\nchannels = 2\nhidden = 6\n')
    bare = replace(usual, data=replace(usual.data, noise=(), rooms=0))
    model = CRNN(usual.size).eval()
    one, other = (validation.load(corpus, which, model).noisy for which in (usual, bare))
    assert len(one) == len(other) == len(validation.SNRS)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
