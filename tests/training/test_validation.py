"""Continuous speech in parts says what it says as one stream."""

import torch

from training import validation
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
